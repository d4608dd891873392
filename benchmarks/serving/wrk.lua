-- Sends a request for each body file in turn and ends with one line of JSON.
-- Arguments: method, content type, accepted type, content coding or "", "counted" or "", the connections, their mean
-- milliseconds of thought or "", body files. Counted are the images of every answer, as the shape of its first tensor
-- in safetensors says. Before each request a connection thinks for an exponential time, before its first for
-- SETTLING_MS more, until when the server has accepted all of them. What is longer than MOST_MS is drawn again, as
-- the server would close the connection as idle: of a mean of half a second that takes a two-hundredth away.
local SETTLING_MS = 1000 -- as in wrk.py
local MOST_MS = 3500
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
   local unsettled, thought_ms = tonumber(args[6]), tonumber(args[7])
   if thought_ms then
      function delay()
         local drawn_ms
         repeat drawn_ms = -thought_ms * math.log(1 - math.random()) until drawn_ms < MOST_MS
         local settling_ms = unsettled > 0 and SETTLING_MS or 0
         unsettled = unsettled - 1
         return math.floor(settling_ms + drawn_ms + 0.5)
      end
   end
   for i = 8, #args do
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
      string.format('"p99_9_seconds": %.6f', latency:percentile(99.9) / 1e6),
   }
   local counted = threads[1]:get("images")
   if counted then fields[#fields + 1] = string.format('"images": %d', counted) end
   for _, kind in ipairs({ "connect", "read", "write", "status", "timeout" }) do
      fields[#fields + 1] = string.format('"%s_errors": %d', kind, errors[kind])
   end
   io.write("{", table.concat(fields, ", "), "}\n")
end
