package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// slowSync is the name under which this program starts another one whose fsync
// and fdatasync are slow. A seccomp filter hands both calls to this process,
// which lets each go on after a while: it works for every program, whatever
// language it is written in, and needs no special disk.
const slowSync = "slow-sync"

const (
	seccompSetModeFilter         = 1
	seccompNewListener           = 1 << 3
	seccompAllow                 = 0x7fff0000
	seccompNotify                = 0x7fc00000
	seccompReceive               = 0xc0502100
	seccompSend                  = 0xc0182101
	seccompContinue              = 1
	prSetNoNewPrivs              = 38
	listenerSocket               = 3
	pollIn, pollHangUp           = 1, 16
	loadWord, jumpIfEqual        = 0x20, 0x15
	returnConstant        uint16 = 0x06
)

type instruction struct {
	code    uint16
	yes, no uint8
	k       uint32
}

type program struct {
	length uint16
	filter *instruction
}

// notification and reply are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	data       [64]byte
}

type reply struct {
	id    uint64
	value int64
	err   int32
	flags uint32
}

// startSlowly starts a command whose fsync and fdatasync take at least delay.
// It counts them.
func startSlowly(command *exec.Cmd, delay time.Duration, syncs *atomic.Int64) error {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	theirs := os.NewFile(uintptr(pair[1]), "seccomp")
	defer theirs.Close()
	defer syscall.Close(pair[0])
	command.Args = append([]string{slowSync, command.Path}, command.Args[1:]...)
	command.Path = "/proc/self/exe"
	command.ExtraFiles = []*os.File{theirs}
	if err := command.Start(); err != nil {
		return err
	}
	theirs.Close()
	var message [1]byte
	var control [64]byte
	_, n, _, _, err := syscall.Recvmsg(pair[0], message[:], control[:], syscall.MSG_CMSG_CLOEXEC)
	if err != nil {
		return err
	}
	messages, err := syscall.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) == 0 {
		return fmt.Errorf("the slow program did not start: %w", err)
	}
	listeners, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return err
	}
	go delaySyncs(listeners[0], delay, syncs)
	return nil
}

// delaySyncs ends with the last process that has the filter.
func delaySyncs(listener int, delay time.Duration, syncs *atomic.Int64) {
	defer syscall.Close(listener)
	for {
		poll := struct {
			fd              int32
			events, arrived int16
		}{fd: int32(listener), events: pollIn}
		_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, 0, 0, 0, 0)
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 || poll.arrived&pollHangUp != 0 {
			return
		}
		var call notification
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(listener), seccompReceive, uintptr(unsafe.Pointer(&call))); errno != 0 {
			// The caller is gone already.
			continue
		}
		syncs.Add(1)
		time.AfterFunc(delay, func() {
			goOn := reply{id: call.id, flags: seccompContinue}
			_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, uintptr(listener), seccompSend, uintptr(unsafe.Pointer(&goOn)))
		})
	}
}

// becomeSlow installs the filter, gives away the right to answer it, and
// becomes the program of argv.
func becomeSlow(argv []string) error {
	// The filter is this thread's, and exec keeps no other.
	runtime.LockOSThread()
	filter := []instruction{
		{code: loadWord},
		{code: jumpIfEqual, yes: 2, k: syscall.SYS_FSYNC},
		{code: jumpIfEqual, yes: 1, k: syscall.SYS_FDATASYNC},
		{code: returnConstant, k: seccompAllow},
		{code: returnConstant, k: seccompNotify},
	}
	install := program{uint16(len(filter)), &filter[0]}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0); errno != 0 {
		return errno
	}
	call := map[string]uintptr{"amd64": 317, "arm64": 277}[runtime.GOARCH]
	listener, _, errno := syscall.RawSyscall(call, seccompSetModeFilter, seccompNewListener, uintptr(unsafe.Pointer(&install)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := syscall.Sendmsg(listenerSocket, []byte{0}, syscall.UnixRights(int(listener)), nil, 0); err != nil {
		return err
	}
	syscall.CloseOnExec(listenerSocket)
	return syscall.Exec(argv[0], argv, os.Environ())
}
