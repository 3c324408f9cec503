-- wrk: requests for 1 MiB of a file at random places, aligned as pieces are; or for the whole file. RANGES is the number
-- of pieces, 0 for whole files. Prints what was counted as one line of JSON.

local ranges = tonumber(os.getenv("RANGES") or "0")
local mib = 1048576

function init(args)
  math.randomseed(tonumber(os.getenv("SEED") or "1"))
end

function request()
  if ranges == 0 then
    return wrk.format("GET", nil)
  end
  local first = math.random(0, ranges - 1) * mib
  return wrk.format("GET", nil, { ["Range"] = string.format("bytes=%d-%d", first, first + mib - 1) })
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"bytes": %d, "requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}\n',
    summary.bytes, summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
