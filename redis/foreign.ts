/**
 * The script that records what third-party workers did. Such a worker only has to SET a result. It may also publish a
 * `Report`, when it begins a band and when it has set the result.
 *
 * Invariant: a done band stays done. A report adds at most the worker's name and times.
 *
 * Not here: the other scripts (lua.ts), when a look is due (jobs/pace.ts).
 */
import { CLOCK, FOLLOW, RENEW } from "./lua.ts";

/**
 * Records what third-party workers did. KEYS job, results; ARGV for each result its band and a report as JSON, which
 * may have `worker` and how long it took to `decode`, to compute (`ms`) and to `store`, ms. A result without a worker's
 * name is recorded when it is seen again. Returns the number of bands that became done or whose result is new.
 */
export const RECORD_FOREIGN = `${RENEW}${FOLLOW}${CLOCK}
local ttl, kind, bands, failed, began = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'kind', 'bands', 'error', 'began'))
if not ttl or failed ~= '' then return 0 end
local claims, now, found = KEYS[1] .. ':claims', elapsed(began), 0
local function record_of(band, report)
  local record = about(KEYS[1], band)
  record.deliveries, record.foreign = 0, true
  local claim = redis.call('HGET', claims, band .. ' claim')
  claim = claim and cjson.decode(claim) or {}
  record.worker = report.worker or claim.worker or 'foreign'
  -- The times that the worker reported when it began.
  if claim.worker == record.worker then record.taken, record.claimed = claim.taken, claim.claimed end
  return record
end
-- A look found the result just before its worker announced it: only the name is missing.
local function add_name(band, known, report)
  local done = cjson.decode(known)
  if not report.worker or not done.foreign or done.worker ~= 'foreign' then return end
  done.worker, done.ms = report.worker, report.ms or 0
  local text = cjson.encode(done)
  redis.call('HSET', KEYS[1] .. ':done', band, text)
  redis.call('PUBLISH', KEYS[1], band .. ' ' .. text)
end
local function add_claim(band, record, report)
  -- The report is not new, or a worker of this project has claimed the band.
  if not report.worker or report.worker == redis.call('HGET', claims, band .. ' foreign') then return end
  if redis.call('HEXISTS', claims, band) == 1 then return end
  record.taken, record.claimed = now, now
  local text = cjson.encode(record)
  redis.call('HSET', claims, band .. ' claim', text, band .. ' foreign', report.worker)
  follow(KEYS[1], claims)
  redis.call('PUBLISH', KEYS[1], 'claim ' .. band .. ' ' .. text)
end
local function add_done(band, key, crc, record, report)
  record.ms, record.crc, record.bytes, record.stored = report.ms or 0, tonumber(crc), 0, now
  if report.ms and now then
    record.computed = math.max(0, now - (report.store or 0))
    record.claimed = math.max(0, record.computed - report.ms)
    if report.decode then record.taken = math.max(0, record.claimed - report.decode) end
  end
  -- The base64 of every PNG, PGM and PPM begins with these characters. Another format may be lossy.
  local head = redis.call('GETRANGE', key, 0, 7)
  if kind == 'picture' and head ~= 'iVBORw0K' and not head:find('^UD[UY]') then record.lossy = true end
  local text = cjson.encode(record)
  redis.call('HSET', KEYS[1] .. ':done', band, text)
  redis.call('HDEL', claims, band .. ' claim', band .. ' foreign', band .. ' seen')
  redis.call('EXPIRE', key, ttl)
  redis.call('PUBLISH', KEYS[1], band .. ' ' .. text)
  renew(KEYS[1], ttl, redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands))
end
local function take(band, key, report)
  local crc = redis.call('HGET', KEYS[1] .. ':rows', band) or redis.call('HGET', KEYS[1] .. ':sent', band)
  if not crc then return end
  local known = redis.call('HGET', KEYS[1] .. ':done', band)
  if known then return add_name(band, known, report) end
  local record = record_of(band, report)
  if redis.call('EXISTS', key) == 0 then return add_claim(band, record, report) end
  found = found + 1
  -- A worker that reports its name does so just after it has set the result. Give it time until the next look.
  if not report.worker and redis.call('HSETNX', claims, band .. ' seen', 1) == 1 then return follow(KEYS[1], claims) end
  add_done(band, key, crc, record, report)
end
for i = 2, #KEYS do take(ARGV[i * 2 - 3], KEYS[i], cjson.decode(ARGV[i * 2 - 2])) end
return found`;
