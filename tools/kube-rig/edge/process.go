package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cpu is the CPU time of a process so far, in ticks of 10 ms.
func cpu(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // [0] is field 3
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// number reads a line "KEY:  N …" of a file of a process.
func number(pid int, file, key string) float64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	return line(string(text), key)
}

func line(text, key string) float64 {
	for _, line := range strings.Split(text, "\n") {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return n
		}
	}
	return 0
}

func residentMB(pid int) float64 { return number(pid, "status", "VmRSS") * 1024 / 1e6 }
func privateMB(pid int) float64  { return number(pid, "status", "RssAnon") * 1024 / 1e6 }
func peakMB(pid int) float64     { return number(pid, "status", "VmHWM") * 1024 / 1e6 }
func written(pid int) float64    { return number(pid, "io", "write_bytes") }

// quiet waits until processes used less than 5 % of a core in each of three
// seconds, for 45 seconds at most.
func quiet(pids ...int) {
	used := func() (sum time.Duration) {
		for _, pid := range pids {
			sum += cpu(pid)
		}
		return sum
	}
	before := used()
	for n, end := 0, time.Now().Add(45*time.Second); n < 3 && time.Now().Before(end); {
		time.Sleep(time.Second)
		now := used()
		n++
		if now-before > 50*time.Millisecond {
			n = 0
		}
		before = now
	}
}

// device is a file system of its own for what hubs keep, so that every byte
// that reaches its block device is theirs.
type device struct {
	dir  string
	name string // as in /proc/diskstats
}

func newDevice(dir string) (device, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return device{}, err
	}
	image := dir + ".img"
	file, err := os.Create(image)
	if err != nil {
		return device{}, err
	}
	if err := file.Truncate(4 << 30); err != nil {
		return device{}, err
	}
	file.Close()
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return device{}, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(dir, &stat); err != nil {
		return device{}, err
	}
	link, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", stat.Dev>>8&0xfff, stat.Dev&0xff))
	return device{dir: dir, name: filepath.Base(link)}, err
}

// written is how many bytes have reached the device. What waits in memory is
// written first.
func (d device) written() float64 {
	syscall.Sync()
	text, _ := os.ReadFile("/proc/diskstats")
	for _, line := range strings.Split(string(text), "\n") {
		if f := strings.Fields(line); len(f) > 9 && f[2] == d.name {
			sectors, _ := strconv.ParseFloat(f[9], 64)
			return sectors * 512
		}
	}
	return 0
}
