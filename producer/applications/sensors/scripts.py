"""The changes of sensors in Redis, each one atomic Lua script on the server's own clock.

A state is written only over the state that was read (its first bytes are new with each change), and
in the same step its readings join those that wait. So a reading that was accepted waits exactly
once. What waits is sealed as a batch when it is full or its time has come; a batch is leased to one
worker at a time, and its epoch refuses the answer of a worker that was overtaken.

Names of keys are made here, so the scripts need one server (as Celery does).
"""

from __future__ import annotations

from celeriac.keys import SENSOR_BATCH_PREFIX, SENSOR_PREFIX

MOST_ALARMS = 1_000
CALLED_MS = 5_000
LAST_ROWS = 128
"""Of a batch, among which its newest is looked for: a few may have been overtaken."""
BATCH_BYTES = 400
"""What Redis takes for a batch beside its readings, about."""

_PRELUDE = f"""
local SENSOR, BATCH = '{SENSOR_PREFIX}', '{SENSOR_BATCH_PREFIX}'
local MOST_ALARMS, CALLED_MS = {MOST_ALARMS}, {CALLED_MS}
local BATCH_BYTES = {BATCH_BYTES}
""" + """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_SEAL = f"""
local LAST_ROWS = {LAST_ROWS}
""" + """
local function newest(rows, width, previous)
  local found, found_ms = previous, previous and struct.unpack('<i8', previous)
  for at = math.max(#rows - LAST_ROWS * width, 0) + 1, #rows, width do
    local at_ms = struct.unpack('<i8', rows, at)
    if not found or at_ms > found_ms then found, found_ms = string.sub(rows, at, at + 7), at_ms end
  end
  return found
end

local function seal(tenant, channels, name, rows, why)
  local width = 16 + 8 * channels
  local count = #rows / width
  local counts = SENSOR .. 'batches:' .. tenant .. ':' .. name
  local last = redis.call('HINCRBY', counts, 'readings', count)
  local number = redis.call('HINCRBY', counts, 'batches', 1)
  local previous = redis.call('HGET', counts, 'previous')
  redis.call('HSET', counts, 'previous', newest(rows, width, previous))
  redis.call('PEXPIRE', counts, TTL)
  local id = redis.call('INCR', COUNT)
  redis.call('HSET', BATCH .. id, 'tenant', tenant, 'sensor', name, 'channels', channels,
             'rows', rows, 'number', number, 'first', last - count + 1, 'why', why,
             'previous', previous or '', 'epoch', 0)
  redis.call('ZADD', READY, now, id)
  redis.call('INCRBY', READY_BYTES, #rows + BATCH_BYTES)
end
"""

SAVE = _PRELUDE + """
local KNOWN, DUE, READY, READY_BYTES, COUNT, CALLED, ALARMS = unpack(KEYS)
local tenant, TTL, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local batch_rows, batch_ms = tonumber(ARGV[4]), tonumber(ARGV[5])
local most_ready = tonumber(ARGV[6])
local channels, count, touches, alarms = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9], {}
for at = 10 + 4 * count, #ARGV, 2 do alarms[tonumber(ARGV[at])] = ARGV[at + 1] end
""" + _SEAL + """
local sealed = 0

local function append(name, channels, rows)
  local waiting = SENSOR .. 'readings:' .. tenant .. ':' .. channels .. ':' .. name
  local member = tenant .. ':' .. channels .. ':' .. name
  local length = redis.call('APPEND', waiting, rows)
  local full = batch_rows * (16 + 8 * channels)
  if length == #rows then redis.call('ZADD', DUE, now + batch_ms, member) end
  if length < full then return end
  local all, from = redis.call('GET', waiting), 1
  while length - from + 1 >= full do
    seal(tenant, channels, name, string.sub(all, from, from + full - 1), 'full')
    sealed = sealed + 1
    from = from + full
  end
  if from > length then
    redis.call('DEL', waiting)
    redis.call('ZREM', DUE, member)
  else
    redis.call('SET', waiting, string.sub(all, from))
    redis.call('ZADD', DUE, now + batch_ms, member)
  end
end

redis.call('ZREMRANGEBYSCORE', KNOWN, '-inf', '(' .. (now - TTL * 1.2))
local function has_room(name)
  return redis.call('ZCARD', KNOWN) < most or redis.call('ZSCORE', KNOWN, name)
end

local is_full = tonumber(redis.call('GET', READY_BYTES) or 0) >= most_ready
                and redis.call('EXISTS', READY) == 1
local outcomes, touched = {}, false
for one = 1, count do
  local at = 6 + 4 * one
  local name, token, state, rows = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local key = SENSOR .. 'state:' .. tenant .. ':' .. name
  local found = redis.call('GETRANGE', key, 0, 7)
  if found ~= token then
    -- Sent again, since the answer was lost with the connection: what it says is done.
    outcomes[one] = found == string.sub(state, 1, 8) and 1 or 0
  elseif token == '' and not has_room(name) then
    outcomes[one] = 2
  elseif is_full then
    outcomes[one] = 3
  else
    outcomes[one] = 1
    redis.call('SET', key, state, 'PX', TTL)
    if string.byte(touches, one) == 49 then
      redis.call('ZADD', KNOWN, now, name)
      touched = true
    end
    append(name, channels, rows)
    if alarms[one] then
      for line in string.gmatch(alarms[one], '[^\\n]+') do redis.call('LPUSH', ALARMS, line) end
      redis.call('LTRIM', ALARMS, 0, MOST_ALARMS - 1)
      redis.call('PEXPIRE', ALARMS, TTL)
    end
  end
end
if touched then redis.call('PEXPIRE', KNOWN, math.floor(TTL * 1.2)) end
local calls = sealed > 0 and redis.call('SET', CALLED, '1', 'NX', 'PX', CALLED_MS) and 1 or 0
return {outcomes, sealed, calls}
"""
"""An outcome for each sensor (0: its state is another now, 1: done, 2: there are too many sensors,
3: too much waits for its analysis), the batches that were sealed, and whether to call a worker."""

SWEEP = _PRELUDE + """
local DUE, READY, READY_BYTES, COUNT, CALLED = unpack(KEYS)
local TTL = tonumber(ARGV[1])
""" + _SEAL + """
local due = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, tonumber(ARGV[2]))
local sealed = 0
for _, member in ipairs(due) do
  local tenant, channels, name = string.match(member, '^([^:]*):(%d+):(.*)$')
  local waiting = SENSOR .. 'readings:' .. member
  local rows = redis.call('GET', waiting)
  if rows then
    seal(tenant, tonumber(channels), name, rows, 'time')
    redis.call('DEL', waiting)
    sealed = sealed + 1
  end
  redis.call('ZREM', DUE, member)
end
local ready = redis.call('ZCOUNT', READY, '-inf', now)
local calls = ready > 0 and redis.call('SET', CALLED, '1', 'NX', 'PX', CALLED_MS) and 1 or 0
return {#due, sealed, ready, calls}
"""
"""Sensors that were due, batches that were sealed, those that are ready, and whether to call."""

CLAIM = _PRELUDE + """
local READY, CALLED = unpack(KEYS)
local lease_ms, most, most_bytes = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('DEL', CALLED)
local taken, bytes = {}, 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', READY, '-inf', now, 'LIMIT', 0, most)) do
  local epoch = tonumber(redis.call('HGET', BATCH .. id, 'epoch') or '-1')
  if epoch < 0 then
    redis.call('ZREM', READY, id)
  elseif epoch == 0 or #taken == 0 then
    redis.call('HINCRBY', BATCH .. id, 'epoch', 1)
    redis.call('ZADD', READY, now + lease_ms, id)
    local batch = redis.call('HMGET', BATCH .. id, 'epoch', 'tenant', 'sensor', 'channels', 'rows',
                             'number', 'first', 'why', 'previous')
    table.insert(batch, 1, id)
    taken[#taken + 1] = batch
    bytes = bytes + #batch[6]
    if epoch > 0 or bytes >= most_bytes then break end  -- begun before: alone, it may kill
  end
end
return taken
"""

COMMIT = _PRELUDE + """
local READY, READY_BYTES = unpack(KEYS)
local TTL, most = tonumber(ARGV[1]), tonumber(ARGV[2])
local kept = 0
for at = 3, #ARGV, 6 do
  local id, epoch, tenant, name = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local analysis, is_given_up = ARGV[at + 4], ARGV[at + 5] == '1'
  if redis.call('HGET', BATCH .. id, 'epoch') == epoch then
    local list = SENSOR .. 'analyses:' .. tenant .. ':' .. name
    redis.call('LPUSH', list, analysis)
    redis.call('LTRIM', list, 0, most - 1)
    redis.call('PEXPIRE', list, TTL)
    redis.call('ZREM', READY, id)
    local bytes = redis.call('HSTRLEN', BATCH .. id, 'rows') + BATCH_BYTES
    redis.call('DECRBY', READY_BYTES, bytes)
    if is_given_up then
      redis.call('HDEL', BATCH .. id, 'epoch')
      redis.call('PEXPIRE', BATCH .. id, TTL)
    else
      redis.call('DEL', BATCH .. id)
    end
    kept = kept + 1
  end
end
if redis.call('ZCARD', READY) == 0 then redis.call('DEL', READY_BYTES) end
return kept
"""
