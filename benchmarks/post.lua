-- wrk's script: POST the files named from the second argument on, in turn, again and again; into the file named first
-- (- for none) goes each id that was answered. The summary is one line of JSON.

local function read(name)
   local file = assert(io.open(name, "rb"))
   local text = file:read("*a")
   file:close()
   return text
end

init = function(arguments)
   wrk.method = "POST"
   wrk.headers["Content-Type"] = "application/json"
   if #arguments == 2 then wrk.body = read(arguments[2]) else request = by_turns(arguments) end
   if arguments[1] ~= "-" then
      local ids = assert(io.open(arguments[1], "w"))
      ids:setvbuf("line")
      response = function(status, _, body)
         if status == 200 then ids:write(string.match(body, '"id": ?"([^"]+)"') or body, "\n") end
      end
   end
end

-- Each as GitHub sends it: with its event's name, which is the file's.
function by_turns(arguments)
   local requests, turn = {}, 0
   for number = 2, #arguments do
      wrk.headers["X-GitHub-Event"] = string.match(arguments[number], "([^/]+)%.json$")
      requests[number - 1] = wrk.format(nil, nil, nil, read(arguments[number]))
   end
   return function()
      turn = turn % #requests + 1
      return requests[turn]
   end
end

done = function(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '{"requests": %d, "microseconds": %d, "refused": %d, "broken": %d, '
         .. '"p50_ms": %.3f, "p99_ms": %.3f, "p999_ms": %.3f}\n',
      summary.requests, summary.duration, errors.status, errors.connect + errors.read + errors.write + errors.timeout,
      latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency:percentile(99.9) / 1000))
end
