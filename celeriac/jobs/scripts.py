"""The ledger's changes, each one atomic Lua script on the server's own clock.

A chunk of a job is in exactly one place: ``waiting`` (not published), ``queued`` (a message is on
its way), ``running`` (leased), ``done`` or ``dead``. Its epoch is the time of its last claim in
microseconds and only ever rises, also after the server has forgotten everything, so what was
granted before can never pass for what was granted later.
"""

from __future__ import annotations

_PRELUDE = """
local JOB, DONE, WAITING, QUEUED, RUNNING, DEAD, CLAIMS, ACTIVE = unpack(KEYS)
local time = redis.call('TIME')
local now_us = time[1] * 1000000 + time[2]
local now = math.floor(now_us / 1000)
local job_id, ttl = ARGV[1], ARGV[2]
local state = redis.call('HGET', JOB, 'state')

local function number(name) return tonumber(redis.call('HGET', JOB, name) or '0') end

local function keep()
  for index = 1, 7 do redis.call('EXPIRE', KEYS[index], ttl) end
end

-- The reconciler looks every few seconds, and mostly changes nothing.
local function keep_in_time()
  if redis.call('TTL', JOB) * 2 < tonumber(ttl) then keep() end
end

local function touch()
  redis.call('HSET', JOB, 'updated_ms', now)
  keep()
end

local function enter(to)
  state = to
  redis.call('HSET', JOB, 'state', to)
  if to == 'validating' or to == 'in_progress' or to == 'finalizing' or to == 'cancelling' then
    redis.call('HDEL', JOB, 'ended_ms')
    redis.call('SADD', ACTIVE, job_id)
  else
    redis.call('HSET', JOB, 'ended_ms', now)
    redis.call('SREM', ACTIVE, job_id)
  end
end

local function place(chunk, set, score)
  redis.call('ZREM', WAITING, chunk)
  redis.call('ZREM', QUEUED, chunk)
  redis.call('ZREM', RUNNING, chunk)
  if set then redis.call('ZADD', set, score, chunk) end
end

local function forget(chunk)
  redis.call('HDEL', CLAIMS, 'attempt:' .. chunk, 'owner:' .. chunk, 'reason:' .. chunk,
             'mark:' .. chunk, 'after:' .. chunk)
end

-- Adds the rows of a chunk that was given up, or takes them back.
local function count_dead(chunk, sign)
  local sizes = cjson.decode(redis.call('HGET', JOB, 'sizes') or '[]')
  redis.call('HINCRBY', JOB, 'rows_dead', sign * (sizes[chunk + 1] or 0))
end

local function bury(chunk, attempts)
  local reason = redis.call('HGET', CLAIMS, 'reason:' .. chunk)
    or ('chunk ' .. chunk .. ' ended its worker process ' .. attempts .. ' times')
  local worker = redis.call('HGET', CLAIMS, 'worker:' .. chunk) or ''
  place(chunk)
  forget(chunk)
  redis.call('HINCRBY', CLAIMS, 'epoch:' .. chunk, 1)
  count_dead(chunk, 1)
  redis.call('HSET', DEAD, chunk, cjson.encode({
    attempts = attempts, reason = reason, worker = worker, at_ms = now, dropped = false}))
end

local function attempts_of(chunk)
  return tonumber(redis.call('HGET', CLAIMS, 'attempt:' .. chunk) or '0')
end

-- The chunk runs from now on: its attempt, its epoch, and the kernel's mark at the first attempt.
local function grant(chunk, lease_ms, owner, worker, mark)
  local attempt = attempts_of(chunk) + 1
  local last = tonumber(redis.call('HGET', CLAIMS, 'epoch:' .. chunk) or '0')
  local epoch = math.max(now_us, last + 1)
  redis.call('HSET', CLAIMS, 'attempt:' .. chunk, attempt, 'epoch:' .. chunk, epoch,
             'owner:' .. chunk, owner, 'worker:' .. chunk, worker)
  redis.call('HSETNX', CLAIMS, 'mark:' .. chunk, mark)
  redis.call('HDEL', CLAIMS, 'after:' .. chunk)
  place(chunk, RUNNING, now + lease_ms)
  redis.call('HSETNX', JOB, 'started_ms', now)
  return attempt, epoch, redis.call('HGET', CLAIMS, 'mark:' .. chunk)
end

local function in_flight() return redis.call('ZCARD', QUEUED) + redis.call('ZCARD', RUNNING) end

local function unqueue()
  for _, chunk in ipairs(redis.call('ZRANGE', QUEUED, 0, -1)) do place(chunk, WAITING, chunk) end
end

-- The job's time may be over while nobody has planned it, or while it runs.
local function expire_in_time()
  local expires = number('expires_ms')
  if (state ~= 'validating' and state ~= 'in_progress') or expires == 0 or now < expires then
    return
  end
  unqueue()
  enter('expired')
  redis.call('HSET', JOB, 'error', 'the job had not ended by the time that it was given')
  touch()
end

-- Who planned the job before it was reopened, ordered anew or given to another is not its planner.
local function is_planner(token) return redis.call('HGET', JOB, 'planner') == token end

-- A message of before the output was moved; what it would do is not this job's any more.
local function is_of_elsewhere(output)
  return output ~= '' and redis.call('HGET', JOB, 'output') ~= output
end

-- As 12,345.
local function with_commas(count)
  local text, changed = string.format('%d', count), 1
  while changed > 0 do text, changed = string.gsub(text, '^(%d+)(%d%d%d)', '%1,%2') end
  return text
end

-- Too many of the rows so far have failed: the job ends here. Rows of dead chunks have failed.
local function judge()
  local share = tonumber(redis.call('HGET', JOB, 'max_error_share') or '1')
  if state ~= 'in_progress' or share >= 1 then return end
  local dead = number('rows_dead')
  local failed, seen = number('rows_failed') + dead, number('rows_done') + dead
  if seen < math.min(number('judged_rows'), number('rows')) or failed <= share * seen then
    return
  end
  unqueue()
  enter('failed')
  redis.call('HSET', JOB, 'error', string.format(
    '%s of %s rows failed so far (%.2f %%); beyond %g %% the job stops (max_error_share); ' ..
    'errors/ says why, and a resume with a larger share goes on',
    with_commas(failed), with_commas(seen), 100 * failed / seen, 100 * share))
end

-- Nothing is left: 1 for the one change after which the finaliser must be sent.
local function settle()
  judge()
  if state == 'in_progress' and in_flight() + redis.call('ZCARD', WAITING) == 0 then
    enter('finalizing')
    redis.call('HSET', JOB, 'finalizer_ms', now)
    redis.call('HDEL', JOB, 'finalizer')
    return 1
  end
  if state == 'cancelling' and redis.call('ZCARD', RUNNING) == 0 then enter('cancelled') end
  return 0
end

-- The chunks that the caller must publish now, so that the window is full again.
local function top_up()
  local window = number('window')
  local room = window - in_flight()
  if state ~= 'in_progress' or room * 2 < window or room < 1 then return {} end
  local wave = redis.call('ZRANGE', WAITING, 0, room - 1)
  for _, chunk in ipairs(wave) do place(chunk, QUEUED, now) end
  return wave
end
"""

# ARGV: fields as JSON, among them the order. A job that is there stays as it is.
ORDER = _PRELUDE + """
if state then return {state, redis.call('HGET', JOB, 'order_digest') or ''} end
for name, value in pairs(cjson.decode(ARGV[3])) do redis.call('HSET', JOB, name, value) end
redis.call('HSET', JOB, 'created_ms', now, 'planner_ms', now)
redis.call('HDEL', JOB, 'planner')
enter('validating')
touch()
return {'', ''}
"""

# ARGV: the order from now on ('': as before). What was planned before is looked at again.
REOPEN = _PRELUDE + """
if state ~= 'cancelled' and state ~= 'failed' and state ~= 'expired' then
  return {state or '', 0}
end
if ARGV[3] ~= '' then redis.call('HSET', JOB, 'order', ARGV[3]) end
redis.call('HDEL', JOB, 'error', 'plan_lease_ms', 'plan_attempts', 'expires_ms', 'planner')
redis.call('HSET', JOB, 'planner_ms', now)
enter('validating')
touch()
return {state, 1}
"""

# ARGV: lease in ms, attempts allowed. The planner is told by its token from every other one.
CLAIM_PLAN = _PRELUDE + """
if not state then return {'unknown', '', ''} end
expire_in_time()
if state ~= 'validating' then return {'done', state, ''} end
if number('plan_lease_ms') > now then return {'busy', state, ''} end
local attempts = redis.call('HINCRBY', JOB, 'plan_attempts', 1)
if attempts > tonumber(ARGV[4]) then
  enter('failed')
  redis.call('HSET', JOB, 'error', 'planning the dataset ended its worker process '
             .. (attempts - 1) .. ' times; the worker log has the reason')
  touch()
  return {'dead', state, ''}
end
local token = string.format('%.0f', now_us)
redis.call('HSET', JOB, 'plan_lease_ms', now + ARGV[3], 'planner', token)
touch()
return {'granted', state, token}
"""

# ARGV: lease in ms, the planner's token. It stops if its job has ended meanwhile, is gone, or is
# another's to plan.
RENEW_PLAN = _PRELUDE + """
if not state then return 'cancelled' end
if not is_planner(ARGV[4]) then
  return (state == 'cancelled' or state == 'failed' or state == 'expired') and 'cancelled' or 'lost'
end
if state == 'validating' then
  redis.call('HSET', JOB, 'plan_lease_ms', now + ARGV[3])
  keep()
end
if state == 'cancelled' or state == 'failed' or state == 'expired' then return 'cancelled' end
return 'kept'
"""

# The planner's process is gone.
RELEASE_PLAN = _PRELUDE + """
if state ~= 'validating' then return state or '' end
redis.call('HDEL', JOB, 'plan_lease_ms')
redis.call('HSET', JOB, 'planner_ms', now)
return state
"""

# ARGV: fields as JSON, done chunks as a JSON list, dropped ones with their entries, missing ones,
# the largest share of failed rows ('': as before), its default, '1' for a job that was shown while
# it was planned: if it has ended meanwhile, it stays so; and the token of its planner ('': it was
# not ordered).
ENTER = _PRELUDE + """
if ARGV[10] ~= '' and not is_planner(ARGV[10]) then return {'lost', state or '', 0, {}} end
if ARGV[9] == '1' and state and state ~= 'validating' then return {'cancelled', state, 0, {}} end
local finalizer = state == 'finalizing' and redis.call('HGET', JOB, 'finalizer')
for name, value in pairs(cjson.decode(ARGV[3])) do redis.call('HSET', JOB, name, value) end
if ARGV[7] == '' then
  redis.call('HSETNX', JOB, 'max_error_share', ARGV[8])
else
  redis.call('HSET', JOB, 'max_error_share', ARGV[7])
end
redis.call('HSETNX', JOB, 'created_ms', now)
redis.call('HDEL', JOB, 'started_ms', 'error', 'plan_lease_ms', 'plan_attempts', 'planner_ms')
redis.call('DEL', DONE, WAITING, QUEUED, DEAD)
for _, chunk in ipairs(cjson.decode(ARGV[4])) do
  place(chunk)
  forget(chunk)
  redis.call('SADD', DONE, chunk)
end
for chunk, entry in pairs(cjson.decode(ARGV[5])) do
  place(chunk)
  count_dead(tonumber(chunk), 1)
  redis.call('HSET', DEAD, chunk, entry)
end
for _, chunk in ipairs(cjson.decode(ARGV[6])) do
  local lease = redis.call('ZSCORE', RUNNING, chunk)
  if not lease or tonumber(lease) <= now then
    forget(chunk)
    place(chunk, WAITING, chunk)
  end
end
enter('in_progress')
local completes = settle()
if completes == 1 and finalizer then redis.call('HSET', JOB, 'finalizer', finalizer) end
local wave = top_up()
touch()
return {'granted', state, completes, wave}
"""

# ARGV: chunk, lease in ms, owner, worker, attempts allowed, mark of the kernel: that of the first
# attempt is kept; and the output folder of the message ('': not told).
CLAIM = _PRELUDE + """
local chunk = ARGV[3]
if not state then return {'unknown', '', 0, 0, 0, {}, ''} end
if is_of_elsewhere(ARGV[9]) then return {'unknown', state, 0, 0, 0, {}, ''} end
if redis.call('SISMEMBER', DONE, chunk) == 1 then return {'done', state, 0, 0, 0, {}, ''} end
if redis.call('HEXISTS', DEAD, chunk) == 1 then return {'dead', state, 0, 0, 0, {}, ''} end
if state ~= 'in_progress' then return {'cancelled', state, 0, 0, 0, {}, ''} end
if tonumber(chunk) >= number('chunks') then return {'unknown', state, 0, 0, 0, {}, ''} end
local lease = redis.call('ZSCORE', RUNNING, chunk)
if lease and tonumber(lease) > now then return {'busy', state, 0, 0, 0, {}, ''} end
local attempts = attempts_of(chunk)
if attempts >= tonumber(ARGV[7]) then
  bury(chunk, attempts)
  local completes = settle()
  local wave = top_up()
  touch()
  return {'dead', state, attempts, 0, completes, wave, ''}
end
local attempt, epoch, mark = grant(chunk, ARGV[4], ARGV[5], ARGV[6], ARGV[8])
touch()
return {'granted', state, attempt, epoch, 0, {}, mark}
"""

# ARGV: chunk, epoch, lease in ms.
RENEW = _PRELUDE + """
local chunk = ARGV[3]
if not state then return 'unknown' end
if redis.call('HGET', CLAIMS, 'epoch:' .. chunk) ~= ARGV[4]
   or redis.call('SISMEMBER', DONE, chunk) == 1 then return 'lost' end
if state == 'in_progress' or state == 'cancelling' then
  place(chunk, RUNNING, now + ARGV[5])
  keep()
end
return state == 'in_progress' and 'kept' or 'cancelled'
"""

# ARGV: chunk, epoch, rows, failed rows; and if the run wants to go on with another chunk, lease in
# ms, owner, worker, attempts allowed, mark of the kernel. KEYS[9] is then the queue of the run's
# message: if messages of others wait there, it is their turn, unless the next one is the job's own.
COMMIT = _PRELUDE + """
local chunk, run = ARGV[3], ARGV[3] .. ':' .. ARGV[4]

-- What this very run was granted, if the answer that said so was lost.
local function granted()
  for _, other in ipairs(redis.call('ZRANGE', RUNNING, 0, -1)) do
    if redis.call('HGET', CLAIMS, 'after:' .. other) == run then
      place(other, RUNNING, now + ARGV[7])
      return {other, attempts_of(other), tonumber(redis.call('HGET', CLAIMS, 'epoch:' .. other)),
              redis.call('HGET', CLAIMS, 'mark:' .. other)}
    end
  end
  return {}
end

-- Each message of the job that waits stands for a chunk that is queued, and was not put off.
local function others_wait()
  return redis.call('LLEN', KEYS[9]) > redis.call('ZCOUNT', QUEUED, '-inf', now)
end

local function may_begin(other) return other and attempts_of(other) < tonumber(ARGV[10]) end

-- The first chunk that waits, for which no message is on its way.
local function without_message()
  if in_flight() >= number('window') or others_wait() then return nil end
  local other = redis.call('ZRANGE', WAITING, 0, 0)[1]
  return may_begin(other) and other or nil
end

-- The chunk of the queue's next message, which is taken out: it is the job's turn anyway.
local function of_next_message()
  local read, message = pcall(cjson.decode, redis.call('LINDEX', KEYS[9], -1) or '')
  local headers = read and type(message) == 'table' and message.headers
  if type(headers) ~= 'table' or headers.job_id ~= job_id
     or type(headers.chunk_no) ~= 'number' then return nil end
  local other = string.format('%d', headers.chunk_no)
  local queued = redis.call('ZSCORE', QUEUED, other)
  if not queued or tonumber(queued) > now or not may_begin(other) then return nil end
  redis.call('RPOP', KEYS[9])
  return other
end

if not state then return {'unknown', '', 0, {}, {}} end
if redis.call('SISMEMBER', DONE, chunk) == 1 then
  return {'repeated', state, 0, {}, ARGV[7] and granted() or {}}
end
if redis.call('HGET', CLAIMS, 'epoch:' .. chunk) ~= ARGV[4] then
  return {'fenced', state, 0, {}, {}}
end
place(chunk)
forget(chunk)
redis.call('HDEL', CLAIMS, 'epoch:' .. chunk, 'worker:' .. chunk)
redis.call('SADD', DONE, chunk)
redis.call('HINCRBY', JOB, 'rows_done', ARGV[5])
redis.call('HINCRBY', JOB, 'rows_failed', ARGV[6])
local completes = settle()
local next = {}
local other = ARGV[7] and state == 'in_progress' and (without_message() or of_next_message())
if other then
  next = {other, grant(other, ARGV[7], ARGV[8], ARGV[9], ARGV[11])}
  redis.call('HSET', CLAIMS, 'after:' .. other, run)
end
local wave = top_up()
touch()
return {'committed', state, completes, wave, next}
"""

# ARGV: chunk, epoch ('' if the owner is named), owner, reason ('': it was stopped), attempts
# allowed, delay in ms.
RELEASE = _PRELUDE + """
local chunk = ARGV[3]
if not state then return {'unknown', '', 0, {}} end
local epoch = redis.call('HGET', CLAIMS, 'epoch:' .. chunk)
local owner = redis.call('HGET', CLAIMS, 'owner:' .. chunk)
if redis.call('SISMEMBER', DONE, chunk) == 1
   or not owner or (ARGV[4] ~= '' and epoch ~= ARGV[4])
   or (ARGV[4] == '' and owner ~= ARGV[5]) then return {'lost', state, 0, {}} end
redis.call('HINCRBY', CLAIMS, 'epoch:' .. chunk, 1)
redis.call('HDEL', CLAIMS, 'owner:' .. chunk)
local outcome = 'returned'
if ARGV[6] == '' then
  redis.call('HINCRBY', CLAIMS, 'attempt:' .. chunk, -1)
  place(chunk, WAITING, chunk)
else
  redis.call('HSET', CLAIMS, 'reason:' .. chunk, ARGV[6])
  local attempts = tonumber(redis.call('HGET', CLAIMS, 'attempt:' .. chunk))
  if attempts >= tonumber(ARGV[7]) then
    outcome = 'dead'
    bury(chunk, attempts)
  elseif state == 'in_progress' then
    outcome = 'again'
    place(chunk, QUEUED, now + ARGV[8])
  else
    place(chunk, WAITING, chunk)
  end
end
local completes = settle()
local wave = top_up()
touch()
return {outcome, state, completes, wave}
"""

# ARGV: most chunks at once, age in ms of a message that is looked for, age of a finaliser, time in
# ms after which a job expires of which nothing has changed.
SWEEP = _PRELUDE + """
if not state then
  redis.call('SREM', ACTIVE, job_id)
  return {'', 0, {}, {}, 0}
end
local is_open = state == 'validating' or state == 'in_progress' or state == 'finalizing'
if is_open and number('updated_ms') <= now - ARGV[6] then
  unqueue()
  enter('expired')
  redis.call('HSET', JOB, 'error', 'nothing of the job has changed for '
             .. math.floor(ARGV[6] / 86400000) .. ' days: no worker takes it; a resume goes on')
  touch()
end
expire_in_time()
if state == 'validating' then
  local lease, plans = number('plan_lease_ms'), 0
  if lease > 0 and lease <= now or lease == 0 and number('planner_ms') <= now - ARGV[4] then
    redis.call('HDEL', JOB, 'plan_lease_ms')
    redis.call('HSET', JOB, 'planner_ms', now)
    plans = 1
  end
  keep_in_time()
  return {state, 0, {}, {}, plans}
end
local most = tonumber(ARGV[3])
local publish = {}
local lapsed = redis.call('ZRANGEBYSCORE', RUNNING, '-inf', now, 'LIMIT', 0, most)
for _, chunk in ipairs(lapsed) do
  if state == 'in_progress' then
    place(chunk, QUEUED, now)
    publish[#publish + 1] = chunk
  else
    place(chunk, WAITING, chunk)
  end
end
for _, chunk in ipairs(top_up()) do publish[#publish + 1] = chunk end
if #lapsed + #publish > 0 then keep() end  -- where they are now may be a new key
local suspects = {}
if state == 'in_progress' then
  suspects = redis.call(
    'ZRANGEBYSCORE', QUEUED, '-inf', now - ARGV[4], 'LIMIT', 0, most)
end
local completes = settle()
if state == 'finalizing' and number('finalizer_ms') <= now - ARGV[5] then
  redis.call('HSET', JOB, 'finalizer_ms', now)
  redis.call('HDEL', JOB, 'finalizer')
  completes = 1
end
if state ~= 'in_progress' and state ~= 'finalizing' and state ~= 'cancelling' then
  redis.call('SREM', ACTIVE, job_id)
else
  keep_in_time()
end
return {state, completes, publish, suspects, 0}
"""

# ARGV: age in ms, chunks. Those that are still queued for so long, queued anew.
REQUEUE_VANISHED = _PRELUDE + """
local found = {}
for index = 4, #ARGV do
  local score = redis.call('ZSCORE', QUEUED, ARGV[index])
  if state == 'in_progress' and score and tonumber(score) <= now - ARGV[3] then
    redis.call('ZADD', QUEUED, now, ARGV[index])
    found[#found + 1] = ARGV[index]
  end
end
return found
"""

# ARGV: chunks (none: all that are not dropped). A job that has ended is opened again.
REQUEUE_DEAD = _PRELUDE + """
local open = {in_progress = true, completed_with_errors = true, failed = true}
if not state or not open[state] then return {state or '', 0, {}} end
local chunks, found = {}, 0
for index = 3, #ARGV do chunks[#chunks + 1] = ARGV[index] end
if #chunks == 0 then
  for _, chunk in ipairs(redis.call('HKEYS', DEAD)) do
    if not cjson.decode(redis.call('HGET', DEAD, chunk)).dropped then
      chunks[#chunks + 1] = chunk
    end
  end
end
for _, chunk in ipairs(chunks) do
  if redis.call('HDEL', DEAD, chunk) == 1 then
    found = found + 1
    count_dead(chunk, -1)
    forget(chunk)
    place(chunk, WAITING, chunk)
  end
end
if found == 0 then return {state, 0, {}} end
if state ~= 'in_progress' then
  redis.call('HSET', JOB, 'error', '', 'rows_before', number('rows_done'))
  redis.call('HDEL', JOB, 'started_ms')
  enter('in_progress')
end
judge()
local wave = top_up()
touch()
return {state, found, wave}
"""

# ARGV: chunks. Dead ones that nobody wants any more.
DROP = _PRELUDE + """
local found = {}
for index = 3, #ARGV do
  local entry = redis.call('HGET', DEAD, ARGV[index])
  if entry then
    entry = cjson.decode(entry)
    entry.dropped = true
    redis.call('HSET', DEAD, ARGV[index], cjson.encode(entry))
    found[#found + 1] = ARGV[index]
  end
end
return found
"""

CANCEL = _PRELUDE + """
if state == 'validating' then
  enter('cancelled')
  touch()
elseif state == 'in_progress' then
  unqueue()
  enter('cancelling')
  settle()
  touch()
end
return state or ''
"""

# ARGV: new state, error, rows done, failed and dead ('' keeps them), the token of the planner who
# says so ('': anybody), states it may come from. 1 if it has moved.
MOVE = _PRELUDE + """
if ARGV[8] ~= '' and not is_planner(ARGV[8]) then return 0 end
for index = 9, #ARGV do
  if state == ARGV[index] then
    enter(ARGV[3])
    redis.call('HSET', JOB, 'error', ARGV[4])
    if ARGV[5] ~= '' then
      redis.call('HSET', JOB, 'rows_done', ARGV[5], 'rows_failed', ARGV[6],
                 'rows_dead', ARGV[7])
    end
    touch()
    return 1
  end
end
return 0
"""

# ARGV: owner, the output folder of its message ('': not told), '1' for one that is at work already.
# This finaliser is at work, and no other one: on a full disk each would delete what the other has
# written. The sweep lets go of one that is silent. One at work whose job went on meanwhile does not
# take it up again: it knows of chunks as they were.
FINALIZING = _PRELUDE + """
if not state then return {'unknown', ''} end
if state ~= 'finalizing' or is_of_elsewhere(ARGV[4]) then return {'done', state} end
local owner = redis.call('HGET', JOB, 'finalizer') or (ARGV[5] == '' and ARGV[3])
if owner ~= ARGV[3] then return {'busy', state} end
redis.call('HSET', JOB, 'finalizer', ARGV[3], 'finalizer_ms', now)
touch()
return {'granted', state}
"""
