-- Who may exchange a key now, and what it was last exchanged for.
-- KEYS[1] the grant, KEYS[2] the claim; ARGV[1] who asks, ARGV[2] the lease in milliseconds.
-- Returns {1 when the claim is the asker's, the stored grant or '', how often it was saved}.
local mine = redis.call('SET', KEYS[2], ARGV[1], 'NX', 'PX', ARGV[2])
if not mine and redis.call('GET', KEYS[2]) == ARGV[1] then -- its answer may have been lost
  mine = redis.call('PEXPIRE', KEYS[2], ARGV[2]) == 1
end
local found = redis.call('HMGET', KEYS[1], 'grant', 'serial')
return {mine and 1 or 0, found[1] or '', tonumber(found[2] or '0')}
