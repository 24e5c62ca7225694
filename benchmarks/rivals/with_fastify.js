// Fastify and pg. `node with_fastify.js PORT WORKERS`; the answer's schema lets it be written by compiled code.
const fastify = require('fastify')({ bodyLimit: 25 * 1024 * 1024 })
const { insert, serve } = require('./inbox')

fastify.removeAllContentTypeParsers()
fastify.addContentTypeParser('*', { parseAs: 'buffer' }, (request, body, done) => done(null, body))

const schema = { response: { 200: { type: 'object', properties: { id: { type: 'string' } } } } }
fastify.post('/:source', { schema }, async request => {
  return { id: await insert(request.params.source, request.raw.rawHeaders, request.body) }
})

serve(port => fastify.listen({ port, host: '127.0.0.1', backlog: 1024 }))
