-- One holder at a time: take, renew and give back by the same comparison.
-- KEYS[1] the lease; ARGV[1] who asks; ARGV[2] for how many milliseconds, 0 to give it back.
-- Returns 1 when the lease is (for ARGV[2] = 0: was) the asker's, else 0.
local holder = redis.call('GET', KEYS[1])
if ARGV[2] == '0' then
  if holder ~= ARGV[1] then
    return 0
  end
  redis.call('DEL', KEYS[1])
  return 1
end
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
