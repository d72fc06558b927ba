-- Put keys in use and take them out. See take.lua.
--
-- ARGV  "seed", then id and secret of every key of the settings -> fingerprints in quarantine
--       "add", then id and secret of each -> nothing; what is in quarantine comes back
--       "remove", id, reason -> 1 if it was in use
--       "restore", fingerprint -> 1 if it was in quarantine
local base, what = KEYS[1], ARGV[1]
local ids, quarantine = base .. ':ids', base .. ':quarantine'
local VERSION = 1

local function key(id) return base .. ':key:' .. id end
local function fingerprint(id) return string.sub(id, 1, 12) end

local function put_in(id)
  redis.call('SADD', ids, id)
  redis.call('HDEL', key(id), 'cool')
  redis.call('ZADD', base .. ':later', 0, id)
end

local function take_out(id)
  for _, place in ipairs({':free', ':later', ':busy'}) do redis.call('ZREM', base .. place, id) end
  return redis.call('SREM', ids, id)
end

if what == 'seed' then
  local named, shut = {}, {}
  for i = 2, #ARGV, 2 do
    local id = ARGV[i]
    named[id] = true
    redis.call('HSET', key(id), 'v', VERSION, 'secret', ARGV[i + 1], 'settings', 1)
    if redis.call('HEXISTS', quarantine, fingerprint(id)) == 1 then
      shut[#shut + 1] = fingerprint(id)
    elseif redis.call('SISMEMBER', ids, id) == 0 then
      put_in(id)
    end
  end
  for _, id in ipairs(redis.call('SMEMBERS', ids)) do
    if not named[id] and redis.call('HDEL', key(id), 'settings') == 1
      and redis.call('HEXISTS', key(id), 'hand') == 0 then
      take_out(id)
      redis.call('DEL', key(id))
      redis.call('HDEL', base .. ':balances', fingerprint(id))
    end
  end
  redis.call('HSET', base .. ':meta', 'v', VERSION)
  return shut
end

if what == 'add' then
  for i = 2, #ARGV, 2 do
    local id = ARGV[i]
    redis.call('HSET', key(id), 'v', VERSION, 'secret', ARGV[i + 1], 'hand', 1)
    redis.call('HDEL', quarantine, fingerprint(id))
    if redis.call('SISMEMBER', ids, id) == 0 then put_in(id) end
  end
  return 0
end

if what == 'remove' then
  if take_out(ARGV[2]) == 0 then return 0 end
  local clock = redis.call('TIME')
  local at = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
  local told = cjson.encode({v = VERSION, id = ARGV[2], reason = ARGV[3], at = at})
  redis.call('HSET', quarantine, fingerprint(ARGV[2]), told)
  return 1
end

local told = redis.call('HGET', quarantine, ARGV[2])
if not told then return 0 end
redis.call('HDEL', quarantine, ARGV[2])
put_in(cjson.decode(told).id)
return 1
