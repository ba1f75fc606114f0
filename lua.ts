/**
 * The scripts that run inside Redis. Each is one transaction on the keys of one job.
 *
 * Invariant: a script writes nothing about a job whose record does not exist.
 *
 * Not here: the keys and the callers (results.ts).
 */

/** Changes a record. KEYS job; ARGV hint, field, value, … */
export const UPDATE = `
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('PUBLISH', KEYS[1], ARGV[1])
return 1`;

/** Stores a band. KEYS job, done, result, rows; ARGV band, done record, picture, CRC. */
export const STORE = `
local ttl, failed = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'error'))
if not ttl or failed ~= '' or redis.call('HGET', KEYS[4], ARGV[1]) ~= ARGV[4] then return 0 end
redis.call('SET', KEYS[3], ARGV[3], 'EX', ttl)
redis.call('EXPIRE', KEYS[1], ttl)
redis.call('HDEL', KEYS[1], 'suspect')
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 then redis.call('PUBLISH', KEYS[1], ARGV[1] .. ' ' .. ARGV[2]) end
redis.call('EXPIRE', KEYS[2], ttl)
redis.call('EXPIRE', KEYS[4], ttl)
return 1`;

/** Marks third-party results as done. KEYS job, done, then results; ARGV for each result its band and done record. */
export const RECORD_FOREIGN = `
local ttl, kind = unpack(redis.call('HMGET', KEYS[1], 'ttl', 'kind'))
if not ttl then return 0 end
local picture = kind ~= 'data'
for i = 3, #KEYS do
  local band, record = ARGV[i * 2 - 5], ARGV[i * 2 - 4]
  -- The base64 of every PNG begins like this. Another format may have lost pixels.
  if picture and redis.call('GETRANGE', KEYS[i], 0, 7) ~= 'iVBORw0K' then
    record = record:sub(1, -2) .. ',"lossy":true}'
  end
  if redis.call('EXPIRE', KEYS[i], ttl) == 1 and redis.call('HSETNX', KEYS[2], band, record) == 1 then
    redis.call('EXPIRE', KEYS[1], ttl)
    redis.call('EXPIRE', KEYS[2], ttl)
    redis.call('PUBLISH', KEYS[1], band .. ' ' .. record)
  end
end
return 1`;

/** Sets or counts a field of a job's hash. KEYS job, hash; ARGV command (HSET or HINCRBY), field, value. */
export const MARK = `
local ttl = redis.call('HGET', KEYS[1], 'ttl')
if not ttl then return 0 end
local value = redis.call(ARGV[1], KEYS[2], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[2], ttl)
return value`;

/** Since when bands are missing. KEYS job; ARGV 1 missing, 0 not. Returns ms. */
export const TRACK_MISSING = `
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if ARGV[1] == '0' then
  redis.call('HDEL', KEYS[1], 'suspect')
  return 0
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSETNX', KEYS[1], 'suspect', now)
return now - redis.call('HGET', KEYS[1], 'suspect')`;

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
