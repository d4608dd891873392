-- Sends a request for each body file in turn and ends with one line of JSON.
-- Arguments: method, content type, accepted type, content coding or "", "counted" or "", body files. Counted are
-- the images of every answer, as the shape of its first tensor in safetensors says.
local posts, turn, threads = {}, 0, {}

function setup(thread)
   threads[#threads + 1] = thread
end

function init(args)
   if args[5] ~= "" then
      images = 0
      function response(status, headers, body)
         images = images + (tonumber(body:match('"shape":%s*%[(%d+)')) or 0)
      end
   end
   for i = 6, #args do
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
   local counted = threads[1]:get("images")
   if counted then fields[#fields + 1] = string.format('"images": %d', counted) end
   for _, kind in ipairs({ "connect", "read", "write", "status", "timeout" }) do
      fields[#fields + 1] = string.format('"%s_errors": %d', kind, errors[kind])
   end
   io.write("{", table.concat(fields, ", "), "}\n")
end
