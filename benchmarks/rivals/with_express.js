// Express and pg. `node with_express.js PORT WORKERS`, with NODE_ENV=production.
const express = require('express')
const { insert, serve } = require('./inbox')

const app = express()
app.disable('x-powered-by')
app.disable('etag')
app.use(express.raw({ type: () => true, limit: '25mb' }))

app.post('/:source', async (request, response) => {
  response.json({ id: await insert(request.params.source, request.rawHeaders, request.body) })
})

serve(port => app.listen(port, '127.0.0.1', 1024))
