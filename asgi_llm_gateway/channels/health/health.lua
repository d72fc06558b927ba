-- What processes tell each other of health, in one call: changes in, what is new to the asker out.
-- KEYS[1] a hash: entry -> JSON of its state; KEYS[2] a hash: the number of the last change, and
-- since when the store remembers
-- ARGV[1] the number the asker has seen; then pairs: entry, JSON {c, r, l, h} (condition, reason,
-- seconds left, by hand). Returns the number, since when, then pairs of what changed after ARGV[1].
local VERSION, KEPT = 1, 120
local seen = tonumber(ARGV[1])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('HSETNX', KEYS[2], 'since', time[1] .. '.' .. time[2])

local function read(text)
  if not text then return nil end
  local good, state = pcall(cjson.decode, text)
  if good and type(state) == 'table' and state.v == VERSION
     and type(state.n) == 'number' and type(state.t) == 'number' then return state end
  return nil
end

-- Whether a change may replace what stands: a hand above everything, what is out above what opens
-- and closes by itself, and nobody closes what he has not seen opened.
local function replaces(change, old)
  if change.h or not old then return true end
  if old.c == 'disabled' then return false end
  if change.c == 'closed' then return old.c == 'closed' or old.n <= seen end
  if change.c == 'open' then return old.c ~= 'out' end
  return true
end

for at = 2, #ARGV, 2 do
  local entry, change = ARGV[at], cjson.decode(ARGV[at + 1])
  local old = read(redis.call('HGET', KEYS[1], entry))
  if replaces(change, old) then
    local till = now + change.l
    if old and change.c == 'open' and old.c == 'open' and old.t > till then till = old.t end
    local state = {v = VERSION, c = change.c, r = change.r, h = change.h, t = till,
                   n = redis.call('HINCRBY', KEYS[2], 'number', 1)}
    redis.call('HSET', KEYS[1], entry, cjson.encode(state))
  end
end

local last = tonumber(redis.call('HGET', KEYS[2], 'number') or '0')
local out = {last, redis.call('HGET', KEYS[2], 'since')}
if last ~= seen then
  local all = redis.call('HGETALL', KEYS[1])
  for at = 1, #all, 2 do
    local state = read(all[at + 1])
    if not state then
      redis.call('HDEL', KEYS[1], all[at])
    elseif (state.c == 'open' or state.c == 'closed') and state.t + KEPT < now then
      redis.call('HDEL', KEYS[1], all[at])
    elseif state.n > seen then
      state.l = math.max(0, state.t - now)
      out[#out + 1] = all[at]
      out[#out + 1] = cjson.encode(state)
    end
  end
end
return out
