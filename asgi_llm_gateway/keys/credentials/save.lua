-- Keep a grant and free the claim, unless another grant was saved meanwhile.
-- KEYS[1] the grant, KEYS[2] the claim; ARGV[1] who asks, ARGV[2] the serial it read, ARGV[3] the
-- grant ('' to free the claim only), ARGV[4] for how many milliseconds it is kept.
-- Returns 1 when it was saved, else 0.
if redis.call('GET', KEYS[2]) == ARGV[1] then
  redis.call('DEL', KEYS[2])
end
if ARGV[3] == '' then
  return 0
end
local read = tonumber(ARGV[2])
if tonumber(redis.call('HGET', KEYS[1], 'serial') or '0') > read then
  return 0
end
redis.call('HSET', KEYS[1], 'grant', ARGV[3], 'serial', read + 1)
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
