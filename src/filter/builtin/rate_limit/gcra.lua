-- One token of a bucket, or none: the algorithm of policy/bucket.rs on the clock that all gateways share.
-- No bucket is emptier than empty: where the key says so, this clock has gone back since, or somebody else wrote it.
-- KEYS[1] the bucket; ARGV[1] microseconds for a token, ARGV[2] microseconds for all of them.
-- ARGV[3] of a quota, which does not fill: the milliseconds after which it begins anew. The key holds what was taken of it.
-- Returns whether it is allowed, and in how many microseconds the bucket will be full.
if ARGV[3] then
  local one, all = tonumber(ARGV[1]), tonumber(ARGV[2])
  local taken = math.max(tonumber(redis.call('GET', KEYS[1])) or 0, 0)
  if taken + one > all then
    return {0, all}
  end
  redis.call('SET', KEYS[1], string.format('%.0f', taken + one), 'PX', ARGV[3])
  return {1, taken + one}
end
local time = redis.call('TIME')
-- Since 2024, so that a double still has the fractions of a microsecond.
local now = (time[1] - 1704067200) * 1000000 + time[2]
local interval, depth = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = tonumber(redis.call('GET', KEYS[1])) or now
if full_at < now then full_at = now end
if full_at > now + depth then
  full_at = now + depth
  redis.call('SET', KEYS[1], string.format('%.3f', full_at), 'PX', math.ceil(depth / 1000))
end
local after = full_at + interval
if after - now > depth then
  return {0, math.ceil(full_at - now)}
end
redis.call('SET', KEYS[1], string.format('%.3f', after), 'PX', math.ceil((after - now) / 1000))
return {1, math.ceil(after - now)}
