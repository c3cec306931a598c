-- What scripts see. Runs once in each Lua state, with the functions of the host.
local host = ...
local protected = host.protected
local raw_pcall, raw_xpcall, raw_setmetatable = pcall, xpcall, setmetatable
local raw_collectgarbage, raw_resume = collectgarbage, coroutine.resume

-- A view of a table that cannot be changed.
local function read_only(from)
  local view = raw_setmetatable({}, { __index = from, __newindex = host.read_only, __metatable = false })
  protected[view] = true
  return view
end

-- An error that was caught: the end of the budget cannot be.
local function settle(ok, ...)
  if ok then
    return true, ...
  end
  host.check_budget()
  return false, host.plain((...))
end

local names = { "assert", "error", "getmetatable", "ipairs", "next", "pairs", "rawequal", "rawget", "select", "tonumber",
  "tostring", "type", "unpack", "_VERSION" }
local visible = {}
for _, name in ipairs(names) do
  visible[name] = _G[name]
end

-- As in Redis, its own errors are texts here.
local function worded(ok, first, ...)
  if not ok and type(first) == "table" and type(first.err) == "string" then
    return false, first.err
  end
  return ok, first, ...
end

function visible.pcall(f, ...)
  return worded(settle(raw_pcall(f, ...)))
end

function visible.xpcall(f, handler)
  return settle(raw_xpcall(f, function(e)
    return handler(host.plain(e))
  end))
end

visible.rawset, visible.setmetatable = host.rawset, host.setmetatable

function visible.collectgarbage(option)
  return option == "count" and raw_collectgarbage("count") or 0
end

visible.loadstring = host.loadstring
visible.load = function(next_part, name)
  local parts = {}
  for part in next_part do
    if part == "" then
      break
    end
    parts[#parts + 1] = part
  end
  return host.loadstring(table.concat(parts), name or "=(load)")
end

local threads = {}
for name, f in pairs(coroutine) do
  threads[name] = f
end
function threads.resume(thread, ...)
  return settle(raw_resume(thread, ...))
end

local numbers = {}
for name, f in pairs(math) do
  numbers[name] = f
end
numbers.random, numbers.randomseed = host.random, host.randomseed

local texts = {}
for name, f in pairs(string) do
  texts[name] = f
end
-- Methods of strings find the same functions.
getmetatable("").__index = texts
getmetatable("").__metatable = false

local server = {
  call = host.call, pcall = host.pcall, sha1hex = host.sha1hex, log = host.log, setresp = host.setresp,
  replicate_commands = function() return true end,
  set_repl = function() end,
  LOG_DEBUG = 0, LOG_VERBOSE = 1, LOG_NOTICE = 2, LOG_WARNING = 3,
  REPL_NONE = 0, REPL_AOF = 1, REPL_SLAVE = 2, REPL_REPLICA = 2, REPL_ALL = 3,
  status_reply = host.status_reply, error_reply = host.error_reply,
  REDIS_VERSION = "7.0.15", REDIS_VERSION_NUM = 0x0007000f,
}

visible.string, visible.math, visible.table = read_only(texts), read_only(numbers), read_only(table)
visible.coroutine, visible.redis = read_only(threads), read_only(server)
visible.bit, visible.cjson = read_only(host.bit), read_only(host.cjson)
raw_setmetatable(visible, { __index = host.undefined })
local environment = read_only(visible)
visible._G = environment
return environment, visible
