// What the receivers on Node share: a pool of ten, one prepared INSERT a request, and worker processes by node:cluster.
const cluster = require('node:cluster')
const { Pool } = require('pg')

const [port, workers] = process.argv.slice(2).map(Number)
const INSERT = 'INSERT INTO inbox (source, headers, payload) VALUES ($1, $2, $3) RETURNING id'

function pairs (raw) {
  const found = []
  for (let n = 0; n < raw.length; n += 2) found.push([raw[n], raw[n + 1]])
  return JSON.stringify(found)
}

exports.insert = (pool => async (source, rawHeaders, body) => {
  const { rows } = await pool.query({ name: 'insert', text: INSERT, values: [source, pairs(rawHeaders), body] })
  return rows[0].id
})(new Pool({ max: 10 }))

exports.serve = listen => {
  if (workers === 1 || cluster.isWorker) return listen(port)
  for (let n = 0; n < workers; n++) cluster.fork()
}
