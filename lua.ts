/**
 * The scripts that run inside Redis. Each is one transaction on the keys of one job; KEYS[1] is its record.
 *
 * They guard the transitions of a job and of its bands (docs/architecture.md has the table):
 * - nothing is written about a job whose record does not exist, so a late worker cannot bring a removed job back;
 * - a band that is done stays done, and so does a job that is done: a late failure changes neither;
 * - an attempt is fenced: what a worker reports for an earlier attempt is dropped. Sending a failed job again starts the next.
 *
 * Invariant: the record, its hashes and its stored results live equally long.
 *
 * Not here: the keys and the callers (results.ts).
 */

/**
 * `renew(job, ttl, complete)`: everything about a job lives for `ttl` seconds from now. The results are many, so they are
 * renewed only once in a quarter of the TTL, and when the last band is stored.
 */
const RENEW = `
local function renew(job, ttl, complete)
  for _, part in ipairs({'', ':rows', ':sent', ':done', ':failures', ':claims'}) do redis.call('EXPIRE', job .. part, ttl) end
  local now = tonumber(redis.call('TIME')[1])
  local renewed = tonumber(redis.call('HGET', job, 'renewed') or 0)
  if not complete and now - renewed < ttl / 4 then return end
  redis.call('HSET', job, 'renewed', now)
  for _, band in ipairs(redis.call('HKEYS', job .. ':done')) do
    redis.call('EXPIRE', 'resultado:' .. job:sub(5) .. ':' .. band, ttl)
  end
end
`;

/** `follow(job, key)`: a hash that has just been made lives as long as its record. `renew` renews both. */
const FOLLOW = `
local function follow(job, key)
  if redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, math.max(1, redis.call('PTTL', job))) end
end
`;

/** `stale(attempt, given)`: what a worker reports belongs to an earlier attempt. Third-party senders give none. */
const STALE = `
local function stale(attempt, given) return given ~= '' and attempt and given ~= attempt end
`;

/**
 * `next_attempt(job)`: what belonged to the attempt before is gone, its failures and suspicion too. Done bands stay, the
 * rest must be sent again. Needs `renew`.
 */
const NEXT_ATTEMPT = `
local function next_attempt(job)
  redis.call('HSET', job, 'enqueued', 0)
  redis.call('HINCRBY', job, 'attempt', 1)
  redis.call('HDEL', job, 'suspect', 'looked')
  redis.call('DEL', job .. ':sent', job .. ':failures', job .. ':claims')
  renew(job, redis.call('HGET', job, 'ttl'), true)
  redis.call('PUBLISH', job, 'job')
end
`;

/** Needs the rights that the other scripts need, and leaves nothing. KEYS job, result and worker of its own, the list of workers. */
export const PROBE = `
for i = 1, 3 do
  redis.call('HSET', KEYS[i], 'probe', 1)
  redis.call('EXPIRE', KEYS[i], 10)
  redis.call('DEL', KEYS[i])
end
redis.call('ZREM', KEYS[4], '')
return redis.call('PUBLISH', KEYS[1], 'probe')`;

/** Gives a key a TTL unless it has one. ARGV seconds. */
export const EXPIRE_ONCE = `
if redis.call('TTL', KEYS[1]) == -1 then return redis.call('EXPIRE', KEYS[1], ARGV[1]) end
return 0`;

/** Changes a record. ARGV hint, attempt or empty, field, value, … */
export const UPDATE = `${RENEW}${STALE}
local ttl, bands, attempt = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'bands', 'attempt'))
if not ttl or stale(attempt, ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands) then renew(KEYS[1], ttl, true) end
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1`;

/** A worker begins a band. ARGV band, claimant, attempt, 1 where the message is a redelivery, 1 where a claim is void. */
export const BEGIN = `${FOLLOW}${STALE}
local failed, attempt, ttl = unpack(redis.call('HMGET', KEYS[1], 'error', 'attempt', 'ttl'))
local claims = KEYS[1] .. ':claims'
if not ttl or failed ~= '' or stale(attempt, ARGV[3]) then return 'drop' end
if redis.call('HEXISTS', KEYS[1] .. ':done', ARGV[1]) == 1 then return 'drop' end
local claim = redis.call('HGET', claims, ARGV[1])
local lost = 0
if claim and claim ~= ARGV[2] then
  -- Two copies of one message, where a publish was repeated: only one of them is computed.
  if ARGV[4] == '0' and ARGV[5] == '0' then return 'claimed ' .. claim end
  lost = redis.call('HINCRBY', claims, ARGV[1] .. ' lost', 1)
end
redis.call('HSET', claims, ARGV[1], ARGV[2])
follow(KEYS[1], claims)
return 'go ' .. lost`;

/** A worker hands a band back. ARGV band, claimant. */
export const UNCLAIM = `
if redis.call('HGET', KEYS[1] .. ':claims', ARGV[1]) == ARGV[2] then
  return redis.call('HDEL', KEYS[1] .. ':claims', ARGV[1])
end
return 0`;

/** Stores a band. KEYS job, result; ARGV band, done record, picture, CRC, attempt. */
export const STORE = `${RENEW}${STALE}
local ttl, failed, attempt, bands = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'error', 'attempt', 'bands'))
if not ttl or failed ~= '' or stale(attempt, ARGV[5]) then return 0 end
if redis.call('HGET', KEYS[1] .. ':rows', ARGV[1]) ~= ARGV[4] then return 0 end
redis.call('SET', KEYS[2], ARGV[3], 'EX', ttl)
redis.call('HDEL', KEYS[1], 'suspect', 'looked')
redis.call('HDEL', KEYS[1] .. ':claims', ARGV[1], ARGV[1] .. ' lost')
if redis.call('HSETNX', KEYS[1] .. ':done', ARGV[1], ARGV[2]) == 1 then
  redis.call('PUBLISH', KEYS[1], ARGV[1] .. ' ' .. ARGV[2])
end
renew(KEYS[1], ttl, redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands))
return 1`;

/** A task threw. ARGV band, attempt. Returns how often it did; 0: the band is done, or belongs to an earlier attempt. */
export const COUNT_FAILURE = `${FOLLOW}${STALE}
local attempt, ttl = unpack(redis.call('HMGET', KEYS[1], 'attempt', 'ttl'))
if not ttl or stale(attempt, ARGV[2]) then return 0 end
if redis.call('HEXISTS', KEYS[1] .. ':done', ARGV[1]) == 1 then return 0 end
redis.call('HDEL', KEYS[1] .. ':claims', ARGV[1])
local failures = redis.call('HINCRBY', KEYS[1] .. ':failures', ARGV[1], 1)
follow(KEYS[1], KEYS[1] .. ':failures')
return failures`;

/** Fails a job, for the first reason given. ARGV error, failure, band or empty, attempt or empty. */
export const FAIL = `${STALE}
local failed, attempt, bands, enqueued = unpack(redis.call('HMGET', KEYS[1], 'error', 'attempt', 'bands', 'enqueued'))
if not bands or failed ~= '' or stale(attempt, ARGV[4]) then return 0 end
if ARGV[3] ~= '' and redis.call('HEXISTS', KEYS[1] .. ':done', ARGV[3]) == 1 then return 0 end
if enqueued == '1' and redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands) then return 0 end
redis.call('HSET', KEYS[1], 'error', ARGV[1], 'failure', ARGV[2])
redis.call('PUBLISH', KEYS[1], 'job')
return 1`;

/** Starts the next attempt of a failed job. */
export const REVIVE = `${RENEW}${NEXT_ATTEMPT}
local failed = redis.call('HGET', KEYS[1], 'error')
if not failed or failed == '' then return 0 end
redis.call('HSET', KEYS[1], 'error', '', 'failure', '')
next_attempt(KEYS[1])
return 1`;

/** Takes back the done record of every band whose result is gone, and starts the next attempt. Returns how many. */
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

/** Marks third-party results as done. KEYS job, results; ARGV for each result its band and done record. */
export const RECORD_FOREIGN = `${RENEW}
local ttl, kind, bands, failed = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'kind', 'bands', 'error'))
if not ttl or failed ~= '' then return 0 end
for i = 2, #KEYS do
  local band, record = ARGV[i * 2 - 3], ARGV[i * 2 - 2]
  -- The base64 of every PNG begins like this. Another format may have lost pixels.
  if kind ~= 'data' and redis.call('GETRANGE', KEYS[i], 0, 7) ~= 'iVBORw0K' then
    record = record:sub(1, -2) .. ',"lossy":true}'
  end
  if redis.call('EXISTS', KEYS[i]) == 1 and redis.call('HSETNX', KEYS[1] .. ':done', band, record) == 1 then
    redis.call('EXPIRE', KEYS[i], ttl)
    redis.call('PUBLISH', KEYS[1], band .. ' ' .. record)
    renew(KEYS[1], ttl, redis.call('HLEN', KEYS[1] .. ':done') == tonumber(bands))
  end
end
return 1`;

/** Sets a field of a job's hash. KEYS job, hash; ARGV field, value, attempt. */
export const MARK = `${FOLLOW}${STALE}
local ttl, attempt = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'attempt'))
if not ttl or stale(attempt, ARGV[3]) then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
follow(KEYS[1], KEYS[2])
return 1`;

/**
 * For how long something has been wrong with a job. ARGV 1 wrong or 0 not, the longest time that one look may add, ms.
 * Returns ms. Only time between two looks counts: while all machines sleep, the clock goes on but nothing can be seen.
 */
export const TRACK_SUSPICION = `
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

/** Takes or renews the lease. KEYS lease; ARGV owner, ms. */
export const LEASE = `
local owner = redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1`;

/** KEYS lease; ARGV owner. */
export const RELEASE = `
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0`;
