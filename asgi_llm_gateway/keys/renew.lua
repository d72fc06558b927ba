-- Hold slots for longer. See take.lua.
--
-- A slot that was lost is held again, since its call goes on: a process that was stopped for too
-- long, or a store that forgot its last moments in a failover, must not count it for free. There may
-- then be more slots held than the limit allows; nobody is lent the key until there are fewer.
--
-- ARGV     1 milliseconds   then two a slot: id, lease
-- Answers  how many were lost: they had expired before, and are held again
local base, lease_ms, lost = KEYS[1], tonumber(ARGV[1]), 0
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)
for i = 2, #ARGV, 2 do
  local held = base .. ':held:' .. ARGV[i]
  lost = lost + redis.call('ZADD', held, now + lease_ms, ARGV[i + 1])
  redis.call('PEXPIRE', held, lease_ms + 60000)
end
return lost
