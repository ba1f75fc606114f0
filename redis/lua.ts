/**
 * The scripts that run inside Redis. Each is one transaction on the keys of one job; KEYS[1] is its record.
 *
 * They guard the transitions of a job and of its bands (docs/architecture.md has the table):
 * - Nothing is written about a job without a record. So a late worker cannot bring a removed job back. The exception is
 *   a third party's message, which has no attempt: its result is stored, and nothing else.
 * - A done band and a done job stay done. A late failure changes neither.
 * - A report for an earlier attempt is dropped. A failed job that is sent again starts its next attempt.
 *
 * Invariant: the record, its hashes and its stored results expire together.
 *
 * Not here: the keys and the callers (results.ts), what third-party workers did (foreign.ts).
 */
import { MAX_INCIDENTS } from "../backends.ts";

/**
 * `renew(job, ttl, complete)`: everything about a job expires `ttl` seconds from now. The results are many, so they are
 * renewed only once in a quarter of the TTL, and when the last band is stored (`complete`).
 */
export const RENEW = `
local function renew(job, ttl, complete)
  for _, part in ipairs({'', ':rows', ':sent', ':done', ':failures', ':claims', ':log'}) do
    redis.call('EXPIRE', job .. part, ttl)
  end
  local now = tonumber(redis.call('TIME')[1])
  local renewed = tonumber(redis.call('HGET', job, 'renewed') or 0)
  if not complete and now - renewed < ttl / 4 then return end
  redis.call('HSET', job, 'renewed', now)
  for _, band in ipairs(redis.call('HKEYS', job .. ':done')) do
    redis.call('EXPIRE', 'resultado:' .. job:sub(5) .. ':' .. band, ttl)
  end
end
`;

/** `follow(job, key)`: gives a new hash the remaining TTL of its record. Later, `renew` renews both. */
export const FOLLOW = `
local function follow(job, key)
  if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, math.max(1, redis.call('PTTL', job))) end
end
`;

/** `stale(attempt, given)`: whether a report belongs to an earlier attempt. Third-party senders give no attempt. */
const STALE = "local function stale(attempt, given) return given ~= '' and attempt and given ~= attempt end\n";

/**
 * `next_attempt(job)`: removes what belongs to the attempt before: sent bands, claims, failures, `suspect`. Done bands
 * stay. The rest must be sent again. Needs `renew`.
 */
const NEXT_ATTEMPT = `
local function next_attempt(job)
  redis.call('HSET', job, 'enqueued', 0)
  redis.call('HINCRBY', job, 'attempt', 1)
  redis.call('HDEL', job, 'suspect', 'looked')
  redis.call('DEL', job .. ':rows', job .. ':sent', job .. ':failures', job .. ':claims')
  renew(job, redis.call('HGET', job, 'ttl'), true)
  redis.call('PUBLISH', job, 'job')
end
`;

/**
 * `elapsed(began)`: ms since the job began, by the clock of Redis; nil if an older coordinator wrote the record.
 * `about(job, band)`: when a band was sent and confirmed, and its lane.
 */
export const CLOCK = `
local function elapsed(began)
  if not began then return nil end
  local time = redis.call('TIME')
  return math.floor((time[1] * 1000 + time[2] / 1000 - began) * 10 + 0.5) / 10
end
local function about(job, band)
  local rows = redis.call('HMGET', job .. ':rows', band .. ' sent', band .. ' confirmed', band .. ' lane')
  local sent, confirmed, lane = unpack(rows)
  return { sent = tonumber(sent or nil), confirmed = tonumber(confirmed or nil), lane = tonumber(lane or nil) }
end
`;

/** `log(job, incident)`: stores and publishes an incident, until the job has `MAX_INCIDENTS`. Needs `follow`. */
const LOG = `
local function log(job, incident)
  incident.n = redis.call('LLEN', job .. ':log') + 1
  if incident.n > ${MAX_INCIDENTS} then return end
  local text = cjson.encode(incident)
  redis.call('RPUSH', job .. ':log', text)
  follow(job, job .. ':log')
  redis.call('PUBLISH', job, 'incident ' .. text)
end
`;

/** Writes a whole record. ARGV TTL, field, value, … Returns when the job began, ms since 1970 by Redis' clock. */
export const PUT = `
local time = redis.call('TIME')
redis.call('HSETNX', KEYS[1], 'began', time[1] .. string.format('%05.1f', math.floor(time[2] / 100) / 10))
redis.call('HSET', KEYS[1], 'ttl', ARGV[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('PUBLISH', KEYS[1], 'job')
return redis.call('HGET', KEYS[1], 'began')`;

/** Tries the rights that the other scripts need. Leaves nothing behind. KEYS: any that no job uses. */
export const PROBE = `
for _, key in ipairs(KEYS) do
  redis.call('HSET', key, 'probe', 1)
  redis.call('EXPIRE', key, 10)
  redis.call('DEL', key)
end
return 1`;

/** Records a heartbeat, with the time of Redis: the clocks of workers may differ. KEYS workers; ARGV name. */
export const BEAT = `
local time = redis.call('TIME')
return redis.call('ZADD', KEYS[1], time[1] * 1000, ARGV[1])`;

/** Returns the names of the live workers. KEYS workers; ARGV ms after which a worker without a heartbeat is dead. */
export const LIVE = `
local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', KEYS[1], 0, time[1] * 1000 - ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)`;

/** Gives a key a TTL unless it has one. ARGV seconds. */
export const EXPIRE_ONCE = `
if redis.call('TTL', KEYS[1]) == -1 then return redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 0`;

/** Changes a record. ARGV hint, attempt or empty, `cutMs` if all bands are enqueued now or empty, field, value, … */
export const UPDATE = `${RENEW}${STALE}${CLOCK}
local ttl, attempt, began, enqueued = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'attempt', 'began', 'enqueued'))
if not ttl or stale(attempt, ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
local bands = redis.call('HGET', KEYS[1], 'bands')
local hint = ARGV[1]
if ARGV[3] ~= '' and began then
  -- A picture that is sent again after all its bands were enqueued keeps the first times.
  if enqueued ~= '1' then redis.call('HSET', KEYS[1], 'enqueuedAt', tostring(elapsed(began)), 'cutMs', ARGV[3]) end
  hint = hint .. ' ' .. table.concat(redis.call('HMGET', KEYS[1], 'enqueuedAt', 'cutMs', 'bands', 'height'), ' ')
end
if redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands) then renew(KEYS[1], ttl, true) end
redis.call('PUBLISH', KEYS[1], hint)
return 1`;

/**
 * A worker begins a band. ARGV band, claimant, attempt, the claim of a dead process or empty, the worker's name, number
 * of earlier deliveries, ms since the worker received the message. Returns `claimed` if another process has the band,
 * then 1 if that one has lost the queue and still computes it, else 0.
 */
export const BEGIN = `${FOLLOW}${STALE}${CLOCK}${LOG}
local failed, attempt, ttl, began = unpack(redis.call('HMGET', KEYS[1], 'error', 'attempt', 'ttl', 'began'))
local claims, band = KEYS[1] .. ':claims', ARGV[1]
if not ttl and ARGV[3] == '' then return 'alone' end
if not ttl or failed ~= '' or stale(attempt, ARGV[3]) then return 'drop' end
if redis.call('HEXISTS', KEYS[1] .. ':done', band) == 1 then return 'drop' end
local claim, losers, cut_off = unpack(redis.call('HMGET', claims, band, band .. ' losers', band .. ' cut off'))
local lost, now = 0, elapsed(began)
losers = losers and cjson.decode(losers) or {}
if claim and claim ~= ARGV[2] then
  if claim ~= ARGV[4] then return 'claimed ' .. (cut_off == claim and 1 or 0) .. ' ' .. claim end
  lost = redis.call('HINCRBY', claims, band .. ' lost', 1)
  local worker = claim:match('^(.*) %S+$') or claim
  table.insert(losers, worker)
  redis.call('HSET', claims, band .. ' losers', cjson.encode(losers))
  -- A watch may have logged the loss already, because the worker's heartbeat had ended.
  if redis.call('HDEL', claims, band .. ' noted') == 0 then
    log(KEYS[1], { what = 'lost', at = now, band = tonumber(band), worker = worker, by = ARGV[5] })
  end
end
local record = about(KEYS[1], band)
record.worker, record.deliveries, record.claimed = ARGV[5], tonumber(ARGV[6]), now
record.taken = now and math.max(0, now - ARGV[7])
if #losers > 0 then record.lost = losers end
local text = cjson.encode(record)
redis.call('HSET', claims, band, ARGV[2], band .. ' claim', text)
follow(KEYS[1], claims)
redis.call('PUBLISH', KEYS[1], 'claim ' .. band .. ' ' .. text)
return 'go ' .. lost .. ' ' .. text`;

/**
 * A worker has lost the queue but still computes its band. ARGV band, claimant. If another worker has taken the band
 * over, it has counted this one as lost. This script takes that back.
 */
export const CUT_OFF = `
local claims, band = KEYS[1] .. ':claims', ARGV[1]
local claim, losers = unpack(redis.call('HMGET', claims, band, band .. ' losers'))
if claim == ARGV[2] then return redis.call('HSET', claims, band .. ' cut off', claim) end
losers = losers and cjson.decode(losers) or {}
for i, worker in ipairs(losers) do
  if worker == ARGV[2]:match('^(.*) %S+$') then
    table.remove(losers, i)
    redis.call('HSET', claims, band .. ' losers', cjson.encode(losers))
    return redis.call('HINCRBY', claims, band .. ' lost', -1)
  end
end
return 0`;

/** Logs that a worker died while it had a band. ARGV band, worker. The claim stays, so that `BEGIN` counts the loss. */
export const NOTE_LOST = `${FOLLOW}${CLOCK}${LOG}
local claims, band = KEYS[1] .. ':claims', ARGV[1]
local claim, began = redis.call('HGET', claims, band), redis.call('HGET', KEYS[1], 'began')
if not began or not claim or claim:match('^(.*) %S+$') ~= ARGV[2] then return 0 end
if redis.call('HSETNX', claims, band .. ' noted', ARGV[2]) == 0 then return 0 end
redis.call('HDEL', claims, band .. ' claim')
log(KEYS[1], { what = 'lost', at = elapsed(began), band = tonumber(band), worker = ARGV[2] })
return 1`;

/** The result of a done job was merged. ARGV how long that took, ms. Only the first merge is recorded. */
export const NOTE_MERGE = `${CLOCK}
local began = redis.call('HGET', KEYS[1], 'began')
if not began or redis.call('HSETNX', KEYS[1], 'mergeMs', ARGV[1]) == 0 then return 0 end
return redis.call('HSET', KEYS[1], 'mergedAt', tostring(elapsed(began)))`;

/** Removes a worker's claim, because it returns the band. ARGV band, claimant. */
export const UNCLAIM = `
if redis.call('HGET', KEYS[1] .. ':claims', ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1] .. ':claims', ARGV[1], ARGV[1] .. ' claim')
end
return 0`;

/** Stores a band. KEYS job, result; ARGV band, done record, picture, CRC, attempt, TTL if there is no record. */
export const STORE = `${RENEW}${STALE}${CLOCK}
local ttl, failed, attempt, bands, began, enqueued =
  unpack(redis.call('HMGET', KEYS[1], 'ttl', 'error', 'attempt', 'bands', 'began', 'enqueued'))
if not ttl and ARGV[5] == '' then
  redis.call('SET', KEYS[2], ARGV[3], 'EX', ARGV[6])
  return 1
end
if not ttl or failed ~= '' or stale(attempt, ARGV[5]) then return 0 end
if redis.call('HGET', KEYS[1] .. ':rows', ARGV[1]) ~= ARGV[4] then return 0 end
if enqueued == '1' and tonumber(ARGV[1]) >= tonumber(bands) then return 0 end -- a list was decided without it
redis.call('SET', KEYS[2], ARGV[3], 'EX', ttl)
redis.call('HDEL', KEYS[1], 'suspect', 'looked')
redis.call('HDEL', KEYS[1] .. ':claims', ARGV[1], ARGV[1] .. ' claim', ARGV[1] .. ' lost', ARGV[1] .. ' losers',
  ARGV[1] .. ' foreign', ARGV[1] .. ' seen', ARGV[1] .. ' noted', ARGV[1] .. ' cut off')
local record = ARGV[2]
if began then record = record:sub(1, -2) .. ',"stored":' .. elapsed(began) .. '}' end
if redis.call('HSETNX', KEYS[1] .. ':done', ARGV[1], record) == 1 then
  redis.call('PUBLISH', KEYS[1], ARGV[1] .. ' ' .. record)
end
renew(KEYS[1], ttl, redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands))
return 1`;

/**
 * A task threw. ARGV band, attempt, worker, error. Returns how often it has thrown for this band; 0 if the band is done
 * or the attempt is an earlier one.
 */
export const COUNT_FAILURE = `${FOLLOW}${STALE}${CLOCK}${LOG}
local attempt, ttl, began = unpack(redis.call('HMGET', KEYS[1], 'attempt', 'ttl', 'began'))
if not ttl or stale(attempt, ARGV[2]) then return 0 end
if redis.call('HEXISTS', KEYS[1] .. ':done', ARGV[1]) == 1 then return 0 end
redis.call('HDEL', KEYS[1] .. ':claims', ARGV[1], ARGV[1] .. ' claim')
local failures = redis.call('HINCRBY', KEYS[1] .. ':failures', ARGV[1], 1)
follow(KEYS[1], KEYS[1] .. ':failures')
log(KEYS[1], { what = 'threw', at = elapsed(began), band = tonumber(ARGV[1]), worker = ARGV[3], error = ARGV[4] })
return failures`;

/** Fails a job that has not failed yet. ARGV error, failure, band or empty, attempt or empty, worker or empty. */
export const FAIL = `${FOLLOW}${STALE}${CLOCK}${LOG}
local failed, attempt, bands, enqueued, began =
  unpack(redis.call('HMGET', KEYS[1], 'error', 'attempt', 'bands', 'enqueued', 'began'))
if not bands or failed ~= '' or stale(attempt, ARGV[4]) then return 0 end
if ARGV[3] ~= '' and redis.call('HEXISTS', KEYS[1] .. ':done', ARGV[3]) == 1 then return 0 end
if enqueued == '1' and redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands) then return 0 end
redis.call('HSET', KEYS[1], 'error', ARGV[1], 'failure', ARGV[2])
local incident = { what = 'failed', at = elapsed(began), error = ARGV[1] }
incident.band = tonumber(ARGV[3])
if ARGV[5] ~= '' then incident.worker = ARGV[5] end
log(KEYS[1], incident)
redis.call('PUBLISH', KEYS[1], 'job')
return 1`;

/** Starts the next attempt of a failed job. */
export const REVIVE = `${RENEW}${NEXT_ATTEMPT}
local failed = redis.call('HGET', KEYS[1], 'error')
if not failed or failed == '' then return 0 end
redis.call('HSET', KEYS[1], 'error', '', 'failure', '')
next_attempt(KEYS[1])
return 1`;

/** Removes the done records of bands whose results are gone. If any are, starts the next attempt. Returns how many. */
export const FORGET_EXPIRED = `${RENEW}${NEXT_ATTEMPT}
local gone = 0
for _, band in ipairs(redis.call('HKEYS', KEYS[1] .. ':done')) do
  if redis.call('EXISTS', 'resultado:' .. KEYS[1]:sub(5) .. ':' .. band) == 0 then
    redis.call('HDEL', KEYS[1] .. ':done', band)
    gone = gone + 1
  end
end
if gone > 0 then next_attempt(KEYS[1]) end
return gone`;

/**
 * Sets the CRC of a band in one of the job's hashes, and the time in `rows`. KEYS job, hash, rows; ARGV band, CRC,
 * attempt, name of the time, lane or empty. Returns -1 if this attempt has other rows for the band: for a moment, two
 * coordinators may enqueue a job, each with its own picture.
 */
export const MARK = `${FOLLOW}${STALE}${CLOCK}
local ttl, attempt, began = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'attempt', 'began'))
if not ttl or stale(attempt, ARGV[3]) then return 0 end
if (redis.call('HGET', KEYS[3], ARGV[1]) or ARGV[2]) ~= ARGV[2] then return -1 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
if began then redis.call('HSET', KEYS[3], ARGV[1] .. ' ' .. ARGV[4], tostring(elapsed(began))) end
if ARGV[5] ~= '' then redis.call('HSET', KEYS[3], ARGV[1] .. ' lane', ARGV[5]) end
follow(KEYS[1], KEYS[2])
follow(KEYS[1], KEYS[3])
return 1`;

/**
 * Measures for how long a job has been stuck. ARGV 1 if it is stuck now, else 0; the most that one look may add, ms.
 * Returns ms. The limit is for a laptop that sleeps: the clock goes on, but no look is made.
 */
export const STUCK_FOR = `
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if ARGV[1] == '0' then
  redis.call('HDEL', KEYS[1], 'suspect', 'looked')
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen, looked = unpack(redis.call('HMGET', KEYS[1], 'suspect', 'looked'))
seen = tonumber(seen or 0)
if looked then seen = seen + math.min(math.max(0, now - looked), tonumber(ARGV[2])) end
redis.call('HSET', KEYS[1], 'suspect', seen, 'looked', now)
return seen`;

/** Takes or renews the lease, and renews the job, so that it does not expire. KEYS lease, job; ARGV owner, ms. */
export const LEASE = `${RENEW}
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local ttl = redis.call('HGET', KEYS[2], 'ttl')
if ttl then renew(KEYS[2], ttl, false) end
return 1`;

/** Releases the lease if it is the owner's. KEYS lease; ARGV owner. */
export const RELEASE = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`;
