-- Every request is a POST with a body of so many bytes: made once, before the load.
function init(args)
   wrk.method = "POST"
   wrk.body = string.rep("b", tonumber(args[1]))
end
