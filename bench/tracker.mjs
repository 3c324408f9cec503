// The tracker of the npm package `bittorrent-tracker`, over HTTP, UDP and web sockets on one port of loopback.
// Its own command would load its client too, whose WebRTC library has to be built.
//
//     node tracker.mjs path/to/bittorrent-tracker/server.js PORT

const [path, port] = process.argv.slice(2)
const { default: Server } = await import(path)
const server = new Server({ http: true, udp: true, ws: true, stats: false })
server.on('error', (error) => {
  console.error(String(error))
  process.exit(1)
})
// What a client sends amiss is the load's business, which counts it.
server.on('warning', () => {})
server.listen(Number(port), { http: '127.0.0.1', udp4: '127.0.0.1', udp6: '::1' }, () => console.log('ready'))
