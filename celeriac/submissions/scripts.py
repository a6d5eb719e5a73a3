"""The changes of submissions, each one atomic Lua script on the server's own clock.

An open submission is ``queued`` (it waits in a line) or ``running`` (leased); the first state that
ends it stays. Its epoch is the time of its last claim in microseconds and only ever rises: what a
run of before brings is refused. Who waits in a line and how many messages call for it hang
together: there are never fewer messages under way than the line has batches, unless one is lost.

The names of hashes and lines are made here, so the scripts need one server (as Celery does).
"""

from __future__ import annotations

from celeriac.keys import (
    SUBMISSION_PREFIX,
    SUBMISSIONS_PACE_KEY,
    SUBMISSIONS_TENANT_ENDED_PREFIX,
    SUBMISSIONS_TENANT_PREFIX,
    SUBMISSIONS_WAITING_PREFIX,
    WEBHOOK_PREFIX,
    WEBHOOK_TTL_S,
    WEBHOOKS_DUE_PREFIX,
)

_PRELUDE = f"""
local SUBMISSION, WAITING = '{SUBMISSION_PREFIX}', '{SUBMISSIONS_WAITING_PREFIX}'
local WEBHOOK, DUE = '{WEBHOOK_PREFIX}', '{WEBHOOKS_DUE_PREFIX}'
local WEBHOOK_TTL = {WEBHOOK_TTL_S * 1_000}
local TENANT, TENANT_ENDED = '{SUBMISSIONS_TENANT_PREFIX}', '{SUBMISSIONS_TENANT_ENDED_PREFIX}'
local PACE = '{SUBMISSIONS_PACE_KEY}'
""" + """
local OPEN, ENDED, BYTES, LINES, HOSTS = unpack(KEYS)
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)

local hosts = {}  -- that have a delivery now

local function fields(name, ...) return redis.call('HMGET', SUBMISSION .. name, ...) end

-- The webhook is due in the moment in which its submission ends.
local function announce(name, state, answer, forget)
  local id, model, delivery, url, host =
    unpack(fields(name, 'id', 'model', 'delivery', 'webhook', 'webhook_host'))
  if not delivery then return end
  redis.call('HSET', WEBHOOK .. delivery, 'url', url, 'host', host, 'id', id, 'model', model,
             'state', state, 'answer', answer, 'ended_ms', now, 'forget_ms', forget,
             'attempts', 0, 'status', 'pending')
  redis.call('PEXPIREAT', WEBHOOK .. delivery, math.max(forget, now + WEBHOOK_TTL))
  redis.call('ZADD', DUE .. host, now, delivery)
  redis.call('SADD', HOSTS, host)
  hosts[host] = true
end

local function tenant_of(name) return string.match(name, '^[^:]*') end

-- How many end in a minute: those of before count less and less.
local function pace(key)
  local held = redis.call('HMGET', key, 'ends', 'ended_us')
  local age_us = math.max(0, now_us - tonumber(held[2] or '0'))
  return tonumber(held[1] or '0') * math.exp(-age_us / 60000000)
end

local function count_end(key)
  redis.call('HSET', key, 'ends', string.format('%.6f', pace(key) + 1),
             'ended_us', string.format('%.0f', now_us))
end

local function leave_tenant(tenant, bytes)
  local key = TENANT .. tenant
  if redis.call('HINCRBY', key, 'open', -1) <= 0 then
    redis.call('DEL', key)
  else
    redis.call('HINCRBY', key, 'bytes', -bytes)
    count_end(key)
  end
end

-- What has ended is known until its time; the list lives as long as the last in it.
local function remember(name, forget)
  local key = TENANT_ENDED .. tenant_of(name)
  redis.call('ZADD', ENDED, forget, name)
  redis.call('ZADD', key, forget, name)
  if redis.call('PEXPIRETIME', key) < forget + 1000 then
    redis.call('PEXPIREAT', key, forget + 1000)
  end
end

local function finish(name, state, answer)
  local line, bytes, expires, kept =
    unpack(fields(name, 'line', 'bytes', 'expires_ms', 'kept_ms'))
  local forget = math.max(tonumber(expires), now) + kept
  redis.call('ZREM', OPEN, name)
  redis.call('ZREM', WAITING .. line, name)
  redis.call('DECRBY', BYTES, bytes)
  redis.call('HDEL', SUBMISSION .. name, 'item')
  redis.call('HSET', SUBMISSION .. name, 'state', state, 'ended_ms', now, 'answer', answer)
  redis.call('PEXPIREAT', SUBMISSION .. name, forget)
  remember(name, forget)
  leave_tenant(tenant_of(name), bytes)
  count_end(PACE)
  redis.call('PEXPIRE', PACE, 600000)
  announce(name, state, answer, forget)
end

local function wait(name, line, expires)
  redis.call('ZADD', OPEN, expires, name)
  redis.call('ZADD', WAITING .. line, now_us, name)
  redis.call('SADD', LINES, line)
end

-- A run has ended without an answer: again, or never again.
local function give_back(name, attempts, line, expires, most, failure)
  if tonumber(attempts) >= tonumber(most) then
    finish(name, 'failed', failure)
    return 'failed'
  end
  redis.call('HSET', SUBMISSION .. name, 'state', 'queued')
  wait(name, line, expires)
  return 'queued'
end

local function listed(set)
  local found = {}
  for one in pairs(set) do found[#found + 1] = one end
  return found
end
"""

# ARGV: name, id, model, line, digest, item, ms until its time is over, ms that it is kept then,
# delivery ('': no webhook), URL, host, items of a batch, queue, message; then most open, most bytes
# and most known, of all and of the tenant. If it is one too many: whose limit, which of the
# three, how many ms until the first is forgotten, how many are open, and how many end in a minute.
SUBMIT = _PRELUDE + """
local name, id, model, line, digest, item = unpack(ARGV, 1, 6)
local state, of, expires = unpack(fields(name, 'state', 'digest', 'expires_ms'))
if state then return {of == digest and 'repeated' or 'conflict', expires} end

-- What the first limit says that would be passed; nil if there is room.
local function full(open, bytes, ended, first)
  redis.call('ZREMRANGEBYSCORE', ended, '-inf', now)
  if open >= tonumber(ARGV[first]) then return {'open', 0} end
  if bytes + #item > tonumber(ARGV[first + 1]) then return {'bytes', 0} end
  if open + redis.call('ZCARD', ended) >= tonumber(ARGV[first + 2]) then
    local oldest = redis.call('ZRANGE', ended, 0, 0, 'WITHSCORES')
    return {'known', oldest[2] and math.ceil(oldest[2] - now) or 0}
  end
end

local tenant = tenant_of(name)
local open, bytes = redis.call('ZCARD', OPEN), tonumber(redis.call('GET', BYTES) or '0')
local found = full(open, bytes, ENDED, 15)
if found then
  return {'full', 'all', found[1], found[2], open, string.format('%.6f', pace(PACE))}
end
local held = redis.call('HMGET', TENANT .. tenant, 'open', 'bytes')
open, bytes = tonumber(held[1] or '0'), tonumber(held[2] or '0')
found = full(open, bytes, TENANT_ENDED .. tenant, 18)
if found then
  return {'full', 'tenant', found[1], found[2], open,
          string.format('%.6f', pace(TENANT .. tenant))}
end

expires = now + ARGV[7]
redis.call('HSET', SUBMISSION .. name, 'id', id, 'model', model, 'line', line, 'digest', digest,
           'item', item, 'bytes', #item, 'state', 'queued', 'attempts', 0, 'epoch', 0,
           'submitted_ms', now, 'expires_ms', expires, 'kept_ms', ARGV[8])
if ARGV[9] ~= '' then
  redis.call('HSET', SUBMISSION .. name, 'delivery', ARGV[9], 'webhook', ARGV[10],
             'webhook_host', ARGV[11])
end
redis.call('INCRBY', BYTES, #item)
redis.call('HINCRBY', TENANT .. tenant, 'open', 1)
redis.call('HINCRBY', TENANT .. tenant, 'bytes', #item)
wait(name, line, expires)
if redis.call('ZCARD', WAITING .. line) % tonumber(ARGV[12]) == 1 or ARGV[12] == '1' then
  redis.call('LPUSH', ARGV[13], ARGV[14])
end
return {'accepted', expires}
"""

# ARGV: line, most items, most bytes, lease in ms, worker, queue, message.
# One that was begun before runs alone: it may have ended the process, with all that ran beside it.
CLAIM = _PRELUDE + """
local line, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local claims, bytes, expired, looks, early = {}, 0, 0, 0, false
while #claims < most do
  local name = redis.call('ZRANGE', WAITING .. line, 0, 0)[1]
  if not name then break end
  local state, expires, attempts, size, epoch =
    unpack(fields(name, 'state', 'expires_ms', 'attempts', 'bytes', 'epoch'))
  looks = looks + 1
  if state ~= 'queued' then
    redis.call('ZREM', WAITING .. line, name)
  elseif now >= tonumber(expires) then
    finish(name, 'expired', '')
    expired = expired + 1
  else
    local again = tonumber(attempts) > 0
    if #claims > 0 and (again or bytes + size > most_bytes) then early = true break end
    epoch = math.max(now_us, epoch + 1)
    redis.call('ZREM', WAITING .. line, name)
    redis.call('HSET', SUBMISSION .. name, 'state', 'running', 'attempts', attempts + 1,
               'epoch', epoch, 'worker', ARGV[5])
    redis.call('HSETNX', SUBMISSION .. name, 'started_ms', now)
    redis.call('ZADD', OPEN, math.min(now + ARGV[4], expires), name)
    claims[#claims + 1] =
      {name, epoch, attempts + 1, redis.call('HGET', SUBMISSION .. name, 'item')}
    bytes = bytes + size
    if again then early = true break end
  end
  if looks >= 1000 then early = true break end
end
if early and redis.call('EXISTS', WAITING .. line) == 1 then
  redis.call('LPUSH', ARGV[6], ARGV[7])
end
return {claims, expired, listed(hosts)}
"""

# ARGV: line, the line to which those go that wait in it, how many at most. They keep their places.
MOVE = _PRELUDE + """
local from, to = WAITING .. ARGV[1], WAITING .. ARGV[2]
local waiting = redis.call('ZRANGE', from, 0, ARGV[3] - 1, 'WITHSCORES')
local moved = 0
for index = 1, #waiting, 2 do
  local name = waiting[index]
  redis.call('ZREM', from, name)
  if fields(name, 'state')[1] == 'queued' then
    redis.call('HSET', SUBMISSION .. name, 'line', ARGV[2])
    redis.call('ZADD', to, waiting[index + 1], name)
    redis.call('SADD', LINES, ARGV[2])
    moved = moved + 1
  end
end
return moved
"""

# ARGV: lease in ms, then name and epoch of each. How many are still held.
RENEW = _PRELUDE + """
local held = 0
for index = 2, #ARGV, 2 do
  local name = ARGV[index]
  local state, epoch, expires = unpack(fields(name, 'state', 'epoch', 'expires_ms'))
  if state == 'running' and epoch == ARGV[index + 1] then
    redis.call('ZADD', OPEN, math.min(now + ARGV[1], expires), name)
    held = held + 1
  end
end
return held
"""

# ARGV: name, epoch, state and answer of each. 'done', 'failed', or why it does not count:
# 'fenced', or 'ended' (also when this very answer came before).
COMMIT = _PRELUDE + """
local outcomes = {}
for index = 1, #ARGV, 4 do
  local name, epoch, to, answer = unpack(ARGV, index, index + 3)
  local state, newest = unpack(fields(name, 'state', 'epoch'))
  local outcome = 'ended'
  if state == 'running' and newest == epoch then
    finish(name, to, answer)
    outcome = to
  elseif state == 'running' or state == 'queued' then
    outcome = 'fenced'
  end
  outcomes[#outcomes + 1] = outcome
end
return {outcomes, listed(hosts)}
"""

# ARGV: attempts allowed, the answer if there is none left, then name and epoch of each.
RELEASE = _PRELUDE + """
local outcomes = {}
for index = 3, #ARGV, 2 do
  local name = ARGV[index]
  local state, epoch, attempts, line, expires =
    unpack(fields(name, 'state', 'epoch', 'attempts', 'line', 'expires_ms'))
  local outcome = 'fenced'
  if state == 'running' and epoch == ARGV[index + 1] then
    outcome = give_back(name, attempts, line, expires, ARGV[1], ARGV[2])
  end
  outcomes[#outcomes + 1] = outcome
end
return {outcomes, listed(hosts)}
"""

# ARGV: name.
CANCEL = _PRELUDE + """
local state = unpack(fields(ARGV[1], 'state'))
if state == 'queued' or state == 'running' then
  finish(ARGV[1], 'cancelled', '')
  state = 'cancelled'
end
return state or ''
"""

# ARGV: name, fields. One whose time is over ends here, if nobody was faster.
READ = _PRELUDE + """
local name = ARGV[1]
local state, expires = unpack(fields(name, 'state', 'expires_ms'))
if not state then return {{}, {}} end
if (state == 'queued' or state == 'running') and now >= tonumber(expires) then
  finish(name, 'expired', '')
end
local delivery = redis.call('HGET', SUBMISSION .. name, 'delivery')
local sent = {}
if delivery then
  sent = redis.call('HMGET', WEBHOOK .. delivery, 'status', 'attempts', 'reason')
end
return {fields(name, unpack(ARGV, 2)), sent}
"""

# ARGV: most at once, attempts allowed, the answer of one that has none left. What must be looked
# at now: lapsed leases, and those whose time is over.
SWEEP = _PRELUDE + """
local names = redis.call('ZRANGEBYSCORE', OPEN, '-inf', now, 'LIMIT', 0, ARGV[1])
local lapsed, failed, expired, lines = 0, 0, 0, {}
for _, name in ipairs(names) do
  local state, expires, attempts, line =
    unpack(fields(name, 'state', 'expires_ms', 'attempts', 'line'))
  if state ~= 'queued' and state ~= 'running' then
    redis.call('ZREM', OPEN, name)
  elseif now >= tonumber(expires) then
    finish(name, 'expired', '')
    expired = expired + 1
  elseif state == 'running' then
    if give_back(name, attempts, line, expires, ARGV[2], ARGV[3]) == 'queued' then
      lapsed = lapsed + 1
      lines[line] = (lines[line] or 0) + 1
    else
      failed = failed + 1
    end
  else
    redis.call('ZADD', OPEN, expires, name)
  end
end
local again = {}
for line, count in pairs(lines) do again[#again + 1] = {line, count} end
return {#names, lapsed, failed, expired, again, listed(hosts)}
"""

# Each line in which something waits: how much, and since how many ms at most.
WAITING_LINES = _PRELUDE + """
local found = {}
for _, line in ipairs(redis.call('SMEMBERS', LINES)) do
  local first = redis.call('ZRANGE', WAITING .. line, 0, 0, 'WITHSCORES')
  if first[1] then
    found[#found + 1] =
      {line, redis.call('ZCARD', WAITING .. line), math.floor((now_us - first[2]) / 1000)}
  else
    redis.call('SREM', LINES, line)
  end
end
return {found, redis.call('ZCARD', OPEN), redis.call('GET', BYTES) or '0'}
"""
