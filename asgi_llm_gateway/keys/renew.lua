-- Hold slots for longer. See take.lua.
--
-- ARGV     1 milliseconds   then two a slot: id, lease
-- Answers  how many were lost: they had expired before
local base, lease_ms, lost = KEYS[1], tonumber(ARGV[1]), 0
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
for i = 2, #ARGV, 2 do
  local held = base .. ':held:' .. ARGV[i]
  if redis.call('ZSCORE', held, ARGV[i + 1]) then
    redis.call('ZADD', held, now + lease_ms, ARGV[i + 1])
    redis.call('PEXPIRE', held, lease_ms + 60000)
  else
    lost = lost + 1
  end
end
return lost
