-- Give slots back, put the tokens used in place of those estimated, let keys rest. See take.lua.
--
-- ARGV  six a call: id ("" where only the lease is known), lease ("" where slots are not counted),
--       second in which it was taken, requests and tokens to add, milliseconds to rest
local base = KEYS[1]
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- What was counted yesterday and is less today must not make today's limit larger.
local function add(use, field, count)
  if count ~= 0 and redis.call('HEXISTS', use, field) == 1
    and redis.call('HINCRBY', use, field, count) < 0 then
    redis.call('HSET', use, field, 0)
  end
end

local function place(id, rest)
  local key = base .. ':key:' .. id
  local rested = tonumber(redis.call('HGET', key, 'cool') or 0)
  if rest > 0 then
    rested = math.max(rested, now + rest)
    redis.call('HSET', key, 'cool', rested)
  end
  redis.call('ZREM', base .. ':free', id)
  redis.call('ZREM', base .. ':busy', id)
  -- The next take looks at those that are due, and puts each where it belongs.
  redis.call('ZADD', base .. ':later', rested > now and rested or 0, id)
end

local unknown = {}
for i = 1, #ARGV, 6 do
  local id, lease, use = ARGV[i], ARGV[i + 1], base .. ':use:' .. ARGV[i]
  if id == '' then
    unknown[#unknown + 1] = lease
  elseif lease ~= '' then
    redis.call('ZREM', base .. ':held:' .. id, lease)
  end
  local requests, tokens = tonumber(ARGV[i + 3]), tonumber(ARGV[i + 4])
  add(use, 'r' .. ARGV[i + 2], requests)
  add(use, 't' .. ARGV[i + 2], tokens)
  add(use, 'dr', requests)
  add(use, 'dt', tokens)
  if id ~= '' and redis.call('SISMEMBER', base .. ':ids', id) == 1 then
    place(id, tonumber(ARGV[i + 5]))
  end
end
-- Of these there are hundreds at a time when the store comes back (keys/desk.py sends 500 at most,
-- which unpack can take): all keys are looked at once, not for each.
if #unknown > 0 then
  for _, id in ipairs(redis.call('SMEMBERS', base .. ':ids')) do
    if redis.call('ZREM', base .. ':held:' .. id, unpack(unknown)) > 0 then place(id, 0) end
  end
end
