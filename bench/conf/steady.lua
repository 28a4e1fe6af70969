-- An open-ended approximation of a fixed rate: each connection pauses a random time before each request, so that
-- requests arrive independently of each other and not in bursts. The first argument is the mean pause in milliseconds.
local mean = 0

function init(args)
   math.randomseed(tonumber(args[2]))
   mean = tonumber(args[1])
end

function delay()
   return math.floor(math.random() * 2 * mean + 0.5)
end
