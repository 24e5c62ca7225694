// graphile-worker with the settings of its documentation's page on performance. `node with_graphile.js
// (install|work) [batched]`: "batched" fetches 500 jobs at once into a local queue and completes them together.
const { run, runMigrations, Logger } = require('graphile-worker')
const { note } = require('./notes')

const [verb, how] = process.argv.slice(2)
const logger = new Logger(() => (level, message) => { if (level === 'error') console.error(message) })
const batching = { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }

async function work () {
  const taskList = { event: async (payload, helpers) => { note(helpers.job.id) } }
  const worker = { concurrentJobs: 24, maxPoolSize: 25, ...(how === 'batched' ? batching : {}) }
  await (await run({ preset: { worker }, taskList, logger })).promise
}

if (verb === 'install') runMigrations({ logger }).then(() => process.exit())
else work()
