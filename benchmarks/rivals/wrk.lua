-- A different body for each request: HEAD, a number whose digits may be spelt, TAIL. Prints one line of JSON at the end.
-- wrk … -- FILE FIRST, where the lines of FILE are head, tail, what joins the digits (nothing: they stay digits), and how
-- each of the ten is spelt, with blanks between.

function init(args)
  local lines = {}
  for line in io.lines(args[1]) do lines[#lines + 1] = line end
  head, tail, joiner, spelt = lines[1], lines[2], lines[3], {}
  for word in lines[4]:gmatch("%S+") do spelt[#spelt + 1] = word end
  number = tonumber(args[2])
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  if joiner == "" then
    -- Plain digits: all requests are as long as each other, so what stands before the number is made once.
    whole = wrk.format(nil, nil, nil, head .. number .. tail)
    before = whole:sub(1, #whole - #tail - #tostring(number))
  end
end

function spell(n)
  local digits = {}
  for digit in tostring(n):gmatch("%d") do digits[#digits + 1] = spelt[tonumber(digit) + 1] end
  return table.concat(digits, joiner)
end

function request()
  number = number + 1
  if before then return before .. number .. tail end
  return wrk.format(nil, nil, nil, head .. spell(number) .. tail)
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "seconds": %.6f, "bytes": %d, "failed": %d, "p50": %.6f, "p99": %.6f}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e6, latency:percentile(99) / 1e6))
end
