-- Choose a free key of a pool and take it: limits, slot and windows in one step.
--
-- KEYS[1]  the pool's base name; everything of the pool begins with it and lies in one hash slot:
--   :ids (set) the keys in use, by id      :free (zset) may be taken now, by rank
--   :later (zset) by when they may be free :busy (zset) every slot held, by when the first expires
--   :meta (hash) there once settings' keys were put in       :key:<id> (hash) secret and flags
--   :held:<id> (zset) leases by expiry     :use:<id> (hash) r<second> t<second> day dr dt
-- ARGV     1 how to choose   2 a random number in [0, 1)   3 the lease   4 its milliseconds
--          5 concurrency  6 rpm  7 tpm  8 rpd  9 tpd (0: no limit)   10 tokens
--          11 the limit day's number  12 its end (unix ms)   13... fingerprints not wanted
-- Answers  {"taken", id, now}   {"none"} no key is left to try   {"empty"} nothing was ever put in
--          {"busy", ms until time alone frees one (-1: never), 1 if calls hold one}
local base = KEYS[1]
local ids, free, later, busy = base .. ':ids', base .. ':free', base .. ':later', base .. ':busy'
local choose, point, lease, lease_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local concurrency, rpm, tpm = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local rpd, tpd, tokens = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local day, day_end = tonumber(ARGV[11]), tonumber(ARGV[12])
local leased = concurrency > 0 or choose == 'least_used'
local counted = rpm > 0 or tpm > 0 or rpd > 0 or tpd > 0

if redis.call('EXISTS', base .. ':meta') == 0 then return {'empty'} end

local clock = redis.call('TIME')
local second = tonumber(clock[1])
local now = second * 1000 + math.floor(tonumber(clock[2]) / 1000)

local unwanted, tried = {}, #ARGV - 12
for i = 13, #ARGV do unwanted[ARGV[i]] = true end
local function wanted(id) return not unwanted[string.sub(id, 1, 12)] end

local function rank(id)
  if choose == 'random' then return 0 end
  if choose == 'round_robin' then
    return tonumber(redis.call('HGET', base .. ':key:' .. id, 'turn') or 0)
  end
  redis.call('ZREMRANGEBYSCORE', base .. ':held:' .. id, '-inf', now)
  return redis.call('ZCARD', base .. ':held:' .. id) * 4294967296
    + tonumber(redis.call('HGET', base .. ':key:' .. id, 'uses') or 0)
end

local function promote(place)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', place, '-inf', now, 'LIMIT', 0, 1000)) do
    redis.call('ZREM', place, id)
    redis.call('ZADD', free, rank(id), id)
  end
end

-- What counts of a key's windows. A bucket of one second counts until all of it is a minute old.
local function windows(id)
  local use, old = base .. ':use:' .. id, {}
  local found = {r = {}, t = {}, rs = 0, ts = 0, dr = 0, dt = 0, day = day}
  local flat = redis.call('HGETALL', use)
  for i = 1, #flat, 2 do
    local kind, at, count = string.sub(flat[i], 1, 1), tonumber(string.sub(flat[i], 2)),
      tonumber(flat[i + 1])
    if not at then
      found[flat[i]] = count
    elseif at < second - 60 or at > second + 60 then -- long ago, or before the clock was set back
      old[#old + 1] = flat[i]
    else
      local buckets = found[kind]
      buckets[#buckets + 1] = {at, count}
      found[kind .. 's'] = found[kind .. 's'] + count
    end
  end
  if #old > 0 then redis.call('HDEL', use, unpack(old)) end
  if found.day < day then
    found.dr, found.dt, found.day = 0, 0, day
    redis.call('HDEL', use, 'dr', 'dt')
  end
  return found
end

-- When so much more fits; more than the limit fits when nothing else counts.
local function opens(buckets, total, need, limit)
  local over = total + math.min(need, limit) - limit
  if limit == 0 or over <= 0 then return 0 end
  table.sort(buckets, function(a, b) return a[1] < b[1] end)
  for _, bucket in ipairs(buckets) do
    over = over - bucket[2]
    if over <= 0 then return (bucket[1] + 61) * 1000 end
  end
  return (second + 61) * 1000
end

local function room(found, need)
  local at = math.max(opens(found.r, found.rs, 1, rpm), opens(found.t, found.ts, need, tpm))
  if (rpd > 0 and found.dr + 1 > rpd) or (tpd > 0 and found.dt + math.min(need, tpd) > tpd) then
    at = math.max(at, day_end)
  end
  return at
end

local function move(id, place, at)
  redis.call('ZREM', free, id)
  redis.call('ZADD', place, at, id)
end

-- The first of a key's leases to expire. None lasts over an hour: one that seems to was taken before
-- the clock was set back, and its process may be dead.
local function expires(held)
  if redis.call('ZCOUNT', held, now + 3600000, '+inf') > 0 then
    for _, one in ipairs(redis.call('ZRANGEBYSCORE', held, now + 3600000, '+inf')) do
      redis.call('ZADD', held, now + lease_ms, one)
    end
  end
  return redis.call('ZRANGE', held, 0, 0, 'WITHSCORES')[2]
end

local first, misfits = -1, 0
local function can_go(id)
  if not wanted(id) then return false end
  if concurrency > 0 then
    local held = base .. ':held:' .. id
    redis.call('ZREMRANGEBYSCORE', held, '-inf', now)
    if redis.call('ZCARD', held) >= concurrency then
      move(id, busy, expires(held))
      return false
    end
  end
  if not counted then return true end
  local found = windows(id)
  local at = room(found, 1)
  if at > now then
    move(id, later, at)
    return false
  end
  at = tokens > 1 and room(found, tokens) or 0
  if at <= now then return true end
  if first < 0 or at < first then first = at end
  misfits = misfits + 1
  return false
end

-- Keys that have room, but not for so many tokens, stay free for smaller calls. Of these only so many
-- are looked at: with a thousand keys the whole store would stand still for every large call.
local MOST_MISFITS = 16

local function draw()
  local x = point
  if choose == 'random' then
    for _ = 1, 4 do
      local count = redis.call('ZCARD', free)
      if count == 0 then return nil end
      local nth = math.floor(x * count)
      local id = redis.call('ZRANGE', free, nth, nth)[1]
      if can_go(id) then return id end
      x = (x * 7919.137) % 1
    end
  end
  for look = 1, 3 do -- at the best few; at all in order; at some from anywhere on
    local all = redis.call('ZRANGE', free, 0, look == 1 and 3 or -1)
    local from = (choose == 'random' or look == 3) and math.floor(x * #all) or 0
    misfits = 0
    for i = 0, #all - 1 do
      local id = all[(from + i) % #all + 1]
      if can_go(id) then return id end
      if misfits == MOST_MISFITS then break end
    end
    if look > 1 and misfits < MOST_MISFITS then return nil end
    x = (x * 7919.137 + 0.5) % 1
  end
  first = math.min(first, now + 1000) -- nobody knows: others were not looked at
  return nil
end

local function any_wanted(all)
  for _, id in ipairs(all) do
    if wanted(id) then return true end
  end
  return false
end

local function take(id)
  local key, held, use = base .. ':key:' .. id, base .. ':held:' .. id, base .. ':use:' .. id
  if leased then
    redis.call('ZADD', held, now + lease_ms, lease)
    redis.call('PEXPIRE', held, lease_ms + 60000)
    if concurrency > 0 and redis.call('ZCARD', held) >= concurrency then
      move(id, busy, expires(held))
    end
  end
  if counted then
    if rpm > 0 then redis.call('HINCRBY', use, 'r' .. second, 1) end
    if tpm > 0 then redis.call('HINCRBY', use, 't' .. second, tokens) end
    if tonumber(redis.call('HGET', use, 'day') or 0) < day then
      redis.call('HSET', use, 'day', day, 'dr', 0, 'dt', 0)
    end
    redis.call('HINCRBY', use, 'dr', 1)
    redis.call('HINCRBY', use, 'dt', tokens)
    redis.call('PEXPIRE', use, math.max(day_end - now, 0) + 3600000)
  end
  if choose == 'round_robin' then
    redis.call('HSET', key, 'turn', redis.call('HINCRBY', base .. ':meta', 'turn', 1))
  elseif choose == 'least_used' then
    redis.call('HINCRBY', key, 'uses', 1)
  end
  if choose ~= 'random' then redis.call('ZADD', free, 'XX', rank(id), id) end
  return {'taken', id, now}
end

promote(busy)
promote(later)
local chosen = draw()
if chosen then return take(chosen) end
if redis.call('SCARD', ids) <= tried and not any_wanted(redis.call('SMEMBERS', ids)) then
  return {'none'}
end
local waiting = redis.call('ZRANGE', later, 0, tried, 'WITHSCORES')
for i = 1, #waiting, 2 do
  local at = tonumber(waiting[i + 1])
  if wanted(waiting[i]) and (first < 0 or at < first) then first = at end
end
local held = any_wanted(redis.call('ZRANGE', busy, 0, tried))
return {'busy', first < 0 and -1 or math.max(first - now, 0), held and 1 or 0}
