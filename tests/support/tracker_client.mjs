// Two clients of the npm package `bittorrent-tracker` meet through a tracker, and say what they saw as one line of JSON.
//
//     node tracker_client.mjs path/to/node_modules URL INFO_HASH
//
// The client is theirs but for WebRTC itself, whose library would have to be built: a peer here makes up its session
// descriptions. What is shown is that the messages find their way, not that bytes do.

import { EventEmitter } from 'node:events'
import { register } from 'node:module'
import { pathToFileURL } from 'node:url'

const [modules, url, infoHash] = process.argv.slice(2)

// Whatever stands on WebRTC gets a module without it.
const hooks = `
  export async function resolve(specifier, context, next) {
    if (/webrtc|datachannel/.test(specifier)) {
      return { url: 'data:text/javascript,export default {}; export const RTCPeerConnection = null, RTCSessionDescription = null, RTCIceCandidate = null', shortCircuit: true }
    }
    return next(specifier, context)
  }`
register(`data:text/javascript,${encodeURIComponent(hooks)}`)

const load = async (file) => (await import(pathToFileURL(`${modules}/bittorrent-tracker/${file}`))).default
const Client = await load('client.js')
const WebSocketTracker = await load('lib/client/websocket-tracker.js')

class Peer extends EventEmitter {
  constructor ({ initiator }) {
    super()
    this.name = `v=0\r\nmade up ${Math.random()} \u00e9\u{1F980}\r\n`
    if (initiator) setImmediate(() => this.emit('signal', { type: 'offer', sdp: this.name }))
  }

  signal (description) {
    this.heard = description
    if (description.type === 'offer') {
      setImmediate(() => this.emit('signal', { type: 'answer', sdp: `to ${description.sdp}` }))
    } else {
      setImmediate(() => this.emit('connect'))
    }
  }

  destroy () {}
}
WebSocketTracker.prototype._createPeer = (options = {}) => new Peer(options)

const saw = { warnings: [] }
const fail = setTimeout(() => {
  console.log(JSON.stringify({ ...saw, error: 'nobody was met in time' }))
  process.exit(1)
}, 60_000)

// Clients of one URL share a socket.
function client (name, url, left) {
  const peerId = Buffer.from(`-${name}-`.padEnd(20, '\u00fe'), 'latin1')
  const made = new Client({ infoHash, peerId, announce: [url], port: 6881, wrtc: {}, getAnnounceOpts: () => ({ left: left.bytes, numwant: 3 }) })
  made.on('error', (error) => saw.warnings.push(String(error)))
  made.on('warning', (error) => saw.warnings.push(String(error)))
  return made
}

const seed = client('SEED', `${url}?seed`, { bytes: 0 })
const missing = { bytes: 1000 }
const leecher = client('LEECH', url, missing)

// The seed is there first; the leecher's offers reach it, and its answer comes back.
seed.once('update', () => leecher.start())
seed.once('peer', (peer) => { saw.asked = peer.id })
leecher.once('update', (update) => { saw.update = { complete: update.complete, incomplete: update.incomplete } })
leecher.once('peer', (peer) => {
  saw.answered = peer.id
  peer.once('connect', () => {
    saw.matches = peer.heard.sdp === `to ${peer.name}`
    leecher.scrape()
  })
})
leecher.once('scrape', (scraped) => {
  saw.scrape = { complete: scraped.complete, incomplete: scraped.incomplete, downloaded: scraped.downloaded }
  saw.infoHash = scraped.infoHash
  leecher.once('update', (update) => {
    saw.completed = { complete: update.complete, incomplete: update.incomplete }
    clearTimeout(fail)
    console.log(JSON.stringify(saw))
    process.exit(0)
  })
  missing.bytes = 0
  leecher.complete()
})
seed.start()
