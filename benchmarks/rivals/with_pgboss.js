// pg-boss, 500 jobs a fetch. `node with_pgboss.js (install|work)`. It polls, at most twice a second; a worker that had
// its hands full is told to look again at once, for which pg-boss has notifyWorker().
const PgBoss = require('pg-boss')
const { note } = require('./notes')

const BATCH = 500
const QUEUE = 'event'
const boss = new PgBoss({ max: 10 })
boss.on('error', console.error)

async function install () {
  await boss.start()
  await boss.createQueue(QUEUE)
  process.exit()
}

async function work () {
  await boss.start()
  const worker = await boss.work(QUEUE, { batchSize: BATCH, pollingIntervalSeconds: 0.5 }, async jobs => {
    for (const job of jobs) note(job.id)
    if (jobs.length === BATCH) boss.notifyWorker(worker)
  })
}

process.argv[2] === 'install' ? install() : work()
