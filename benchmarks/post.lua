-- wrk's script: POST the file named first, again and again; into the file named second goes each id that was answered.
-- The summary is one line of JSON.

init = function(arguments)
   local file = assert(io.open(arguments[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   wrk.headers["Content-Type"] = "application/json"
   file:close()
   if arguments[2] then
      local ids = assert(io.open(arguments[2], "w"))
      ids:setvbuf("line")
      response = function(status, _, body)
         if status == 200 then ids:write(string.match(body, '"id": ?"([^"]+)"') or body, "\n") end
      end
   end
end

done = function(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f}\n',
      summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
