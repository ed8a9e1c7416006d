-- What wrk sends: one operation, each request for the next user and a task of that user at random.
-- Arguments: the operation, the tasks of a user, a body, and a file with a token on each line, for
-- the users 1 to 50 in turns. The tokens are used one after another, and then again.
-- Users u1, u2, ... keep their tasks, whose ids go up from 1; the tasks of w1, w2, ... come and go.

local operation, size, body
local users = 50
local tokens = {}
local turn = 0 -- of the token that was used last
local made = {} -- "user id" of each task that may be deleted

function init(args)
  operation = args[1]
  size = tonumber(args[2])
  body = args[3]
  for line in io.lines(args[4]) do
    table.insert(tokens, line)
  end
  math.randomseed(os.time())
  if operation ~= "delete" then
    response = nil -- wrk would parse each answer for it
  end
end

local function headers(token)
  return {
    ["Authorization"] = "Bearer " .. tokens[token],
    ["Content-Type"] = "application/json",
  }
end

local function create(user)
  return wrk.format("POST", "/api/w" .. user .. "/tasks", headers(turn), body)
end

-- Every other request is a POST, since only what was made can be deleted.
local function delete_or_create(user)
  if #made == 0 then
    return create(user)
  end
  local owner, id = table.remove(made):match("(%d+) (%d+)")
  local path = "/api/w" .. owner .. "/tasks/" .. id
  return wrk.format("DELETE", path, headers(tonumber(owner)))
end

function request()
  turn = turn % #tokens + 1
  local user = (turn - 1) % users + 1
  local list = "/api/u" .. user .. "/tasks"
  local task = list .. "/" .. ((user - 1) * size + math.random(size))
  if operation == "create" then
    return create(user)
  elseif operation == "delete" then
    return delete_or_create(user)
  elseif operation == "list" then
    return wrk.format("GET", list, headers(turn))
  elseif operation == "read" then
    return wrk.format("GET", task, headers(turn))
  elseif operation == "update" then
    return wrk.format("PUT", task, headers(turn), body)
  elseif operation == "toggle" then
    return wrk.format("PATCH", task .. "/complete", headers(turn))
  end
end

function response(status, _, answer)
  if status == 201 then
    local owner = answer:match('"user_id":"w(%d+)"')
    local id = answer:match('"id":(%d+)')
    table.insert(made, owner .. " " .. id)
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
