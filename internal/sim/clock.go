package sim

import "time"

// A clock is one machine's CLOCK_BOOTTIME: it starts somewhere, drifts, and
// counts on while the machine is paused.
type clock struct {
	start  time.Duration // world time at which it began
	offset time.Duration // what it showed then
	ppm    int64         // runs so many parts per million too fast; within ±1000
}

const million = 1_000_000

// read the clock at world time t.
func (c clock) read(t time.Duration) time.Duration {
	d := t - c.start
	return c.offset + d + time.Duration(int64(d)/million*c.ppm) + time.Duration(int64(d)%million*c.ppm/million)
}

// when is the first world time at which the clock shows at least local.
func (c clock) when(local time.Duration) time.Duration {
	d := local - c.offset
	t := c.start + d - time.Duration(int64(d)/(million+c.ppm)*c.ppm)
	for c.read(t) < local {
		t += local - c.read(t)
	}
	for c.read(t-1) >= local {
		t--
	}
	return t
}
