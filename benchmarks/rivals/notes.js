// notes.py for Node: which event's handler started when, into the file BENCH_NOTES, written twenty times a second.
const fs = require('node:fs')

const file = fs.openSync(process.env.BENCH_NOTES, 'a')
let lines = []

setInterval(() => {
  const text = lines.join('')
  lines = []
  if (text) fs.writeSync(file, text)
}, 50)

// Microseconds: a Date has only milliseconds.
exports.note = id => { lines.push(`${id} ${Math.round((performance.timeOrigin + performance.now()) * 1000)}000\n`) }
