-- What wrk sends: one operation, each request for the next of 50 users.
-- Arguments: the operation, and a file with a token on each line, for the users 1 to 50 in turns. The
-- tokens are sent one after another, and then again: 50 are sent many times, and as many as there are
-- requests are sent once each.
-- Users u1, u2, ... keep their tasks, whose ids go up from 1; the tasks of w1, w2, ... come and go.

local USERS = 50
local TASKS = 100 -- of each user
local FIRST_OF_WRITERS = 1000000000 -- the id of the first task to delete; data.py makes them
local NEW = '{"title": "Buy groceries", "description": "Milk, eggs and bread"}'
local CHANGES = '{"title": "Buy groceries today", "completed": true}'

local operation
local tokens = {}
local sent = 0

function init(args)
  operation = args[1]
  for line in io.lines(args[2]) do
    table.insert(tokens, line)
  end
  math.randomseed(os.time())
end

function request()
  local headers = {
    ["Authorization"] = "Bearer " .. tokens[sent % #tokens + 1],
    ["Content-Type"] = "application/json",
  }
  local user = sent % USERS + 1
  local list = "/api/u" .. user .. "/tasks"
  local task = list .. "/" .. (user - 1) * TASKS + math.random(TASKS)
  local list_of_writer = "/api/w" .. user .. "/tasks"
  local task_of_writer = list_of_writer .. "/" .. FIRST_OF_WRITERS + sent
  sent = sent + 1
  if operation == "read" then
    return wrk.format("GET", task, headers)
  elseif operation == "list" then
    return wrk.format("GET", list, headers)
  elseif operation == "create" then
    return wrk.format("POST", list_of_writer, headers, NEW)
  elseif operation == "update" then
    return wrk.format("PUT", task, headers, CHANGES)
  elseif operation == "toggle" then
    return wrk.format("PATCH", task .. "/complete", headers)
  elseif operation == "delete" then
    return wrk.format("DELETE", task_of_writer, headers)
  end
end

-- The last line of the output: requests, seconds, failures, and three percentiles in milliseconds.
function done(summary, latency)
  local failures = 0
  for _, count in pairs(summary.errors) do
    failures = failures + count
  end
  io.write("\n", summary.requests, " ", summary.duration / 1e6, " ", failures)
  for _, share in ipairs({50, 95, 99}) do
    io.write(" ", latency:percentile(share) / 1e3)
  end
end
