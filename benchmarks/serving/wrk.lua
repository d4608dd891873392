-- Sends a request for each body file in turn and ends with one line of JSON.
-- Arguments: method, content type, accepted type, content coding or "", "counted" or "", the connections, their mean
-- milliseconds of thought or "", body files. Counted are the images of every answer, as the shape of its first tensor
-- in safetensors says. Before each request a connection thinks for an exponential time, before its first for
-- SETTLING_MS more, until when the server has accepted all of them. What is longer than MOST_MS is drawn again, as
-- the server would close the connection as idle: of a mean of half a second that takes a two-hundredth away.
--
-- The answers of a closed loop are counted from the N-th, of N connections, to the last, by the times when the
-- connections send again: with many images a request, much of the last second's work is in no answer yet.
local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } moment; int clock_gettime(int clock, moment *now);")
local MONOTONIC = 1
local SETTLING_MS = 1000 -- as in wrk.py
local MOST_MS = 3500
local posts, turn, threads, connections = {}, 0, {}, 0
local moment, asked, begin = ffi.new("moment"), 0, nil
loop_answers, loop_seconds, loop_images = 0, 0, nil -- read by done(), which runs elsewhere

local function seconds_now()
   ffi.C.clock_gettime(MONOTONIC, moment)
   return tonumber(moment.s) + tonumber(moment.ns) * 1e-9
end

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
   connections = tonumber(args[6])
   local unsettled, thought_ms = connections, tonumber(args[7])
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

local function note_loop()
   asked = asked + 1
   local answers = asked - 1 - connections -- one is asked for before all begins, and a first one for each connection
   if answers >= connections then
      local now = seconds_now()
      begin = begin or { seconds = now, answers = answers, images = images }
      loop_answers, loop_seconds = answers - begin.answers, now - begin.seconds
      loop_images = images and images - begin.images
   end
end

function request()
   note_loop()
   turn = turn % #posts + 1
   return posts[turn]
end

function done(summary, latency, requests)
   local errors = summary.errors
   local fields = {
      string.format('"requests": %d', summary.requests),
      string.format('"seconds": %.6f', summary.duration / 1e6),
      string.format('"loop_requests": %d', threads[1]:get("loop_answers")),
      string.format('"loop_seconds": %.6f', threads[1]:get("loop_seconds")),
      string.format('"p50_seconds": %.6f', latency:percentile(50) / 1e6),
      string.format('"p99_seconds": %.6f', latency:percentile(99) / 1e6),
      string.format('"p99_9_seconds": %.6f', latency:percentile(99.9) / 1e6),
   }
   local loop_images = threads[1]:get("loop_images")
   if loop_images then fields[#fields + 1] = string.format('"loop_images": %d', loop_images) end
   for _, kind in ipairs({ "connect", "read", "write", "status", "timeout" }) do
      fields[#fields + 1] = string.format('"%s_errors": %d', kind, errors[kind])
   end
   io.write("{", table.concat(fields, ", "), "}\n")
end
