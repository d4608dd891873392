-- Sends a request for each body file in turn and ends with one line of JSON.
-- Arguments: method, content type, accepted type, content coding or "", body files.
local posts, turn = {}, 0

function init(args)
   for i = 5, #args do
      local file = assert(io.open(args[i], "rb"))
      local headers = { ["Content-Type"] = args[2], ["Accept"] = args[3] }
      if args[4] ~= "" then headers["Content-Encoding"] = args[4] end
      posts[#posts + 1] = wrk.format(args[1], nil, headers, file:read("*a"))
      file:close()
   end
end

function request()
   turn = turn % #posts + 1
   return posts[turn]
end

function done(summary, latency, requests)
   local errors = summary.errors
   local fields = {
      string.format('"requests": %d', summary.requests),
      string.format('"seconds": %.6f', summary.duration / 1e6),
      string.format('"p50_seconds": %.6f', latency:percentile(50) / 1e6),
      string.format('"p99_seconds": %.6f', latency:percentile(99) / 1e6),
   }
   for _, kind in ipairs({ "connect", "read", "write", "status", "timeout" }) do
      fields[#fields + 1] = string.format('"%s_errors": %d', kind, errors[kind])
   end
   io.write("{", table.concat(fields, ", "), "}\n")
end
