package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const containerPath = "/image:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// A containSpec tells "kube-rig contain" how to set up one container. The
// kubelet starts it with new mount, pid and hostname namespaces.
type containSpec struct {
	NetNS     string
	Root      string // empty directory that becomes the container's /
	Hostname  string
	Namespace string
	PodIP     string
	WorkDir   string
	Env       []string
	Argv      []string
	Mounts    []mount
}

type mount struct {
	Source, Target string
	ReadOnly       bool
}

// cmdContain enters the pod's network namespace, builds a root directory and
// becomes the container's program. The root is an empty tmpfs with the host's
// program directories mounted read-only, so dynamically linked programs and a
// shell work, and nothing the container writes reaches the host.
func cmdContain(args []string) error {
	if len(args) != 1 {
		return errors.New("usage: kube-rig contain SPEC.json")
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	var s containSpec
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	runtime.LockOSThread() // namespaces belong to the thread that will exec
	ns, err := unix.Open(s.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%s: %w", s.NetNS, err)
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return err
	}
	if err := s.makeRoot(); err != nil {
		return err
	}
	if err := unix.Chroot(s.Root); err != nil {
		return err
	}
	dir := s.WorkDir
	if dir == "" {
		dir = "/"
	}
	_ = os.MkdirAll(dir, 0o755)
	if err := os.Chdir(dir); err != nil {
		return err
	}
	for _, e := range s.Env { // LookPath uses this process's PATH
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			_ = os.Setenv("PATH", v)
		}
	}
	prog, err := exec.LookPath(s.Argv[0])
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", prog, syscall.Exec(prog, s.Argv, s.Env))
}

func (s *containSpec) makeRoot() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", s.Root, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("root tmpfs: %w", err)
	}
	in := func(p string) string { return filepath.Join(s.Root, p) }
	for _, d := range []string{"proc", "sys", "dev", "tmp", "etc", "run", "var/tmp", "root", "image"} {
		if err := os.MkdirAll(in(d), 0o755); err != nil {
			return err
		}
	}
	_ = os.Chmod(in("tmp"), 0o1777)
	for _, d := range []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc/ssl"} {
		fi, err := os.Lstat("/" + d)
		if err != nil {
			continue
		}
		if fi.Mode()&os.ModeSymlink != 0 { // /lib -> usr/lib and so on
			to, err := os.Readlink("/" + d)
			if err != nil {
				return err
			}
			if err := os.Symlink(to, in(d)); err != nil {
				return err
			}
			continue
		}
		if err := s.bind(mount{Source: "/" + d, Target: "/" + d, ReadOnly: true}); err != nil {
			return err
		}
	}
	if err := unix.Mount("/dev", in("dev"), "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", in("proc"), "proc", 0, ""); err != nil {
		return err
	}
	if err := unix.Mount("sysfs", in("sys"), "sysfs", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	files := map[string]string{
		"etc/hostname":      s.Hostname + "\n",
		"etc/hosts":         "127.0.0.1 localhost\n::1 localhost\n" + s.PodIP + " " + s.Hostname + "\n",
		"etc/resolv.conf":   "nameserver " + clusterDNS + "\nsearch " + s.Namespace + ".svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n",
		"etc/passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"etc/group":         "root:x:0:\nnogroup:x:65534:\n",
		"etc/nsswitch.conf": "hosts: files dns\n",
	}
	for f, text := range files {
		if err := os.WriteFile(in(f), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, m := range s.Mounts {
		if err := s.bind(m); err != nil {
			return err
		}
	}
	return nil
}

// bind mounts a host file or directory into the root. Making the mount point
// fails if it would lie in a read-only host directory, which is what we want.
func (s *containSpec) bind(m mount) error {
	dst := filepath.Join(s.Root, m.Target)
	fi, err := os.Stat(m.Source)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		err = os.MkdirAll(dst, 0o755)
	} else if err = os.MkdirAll(filepath.Dir(dst), 0o755); err == nil {
		var f *os.File
		if f, err = os.OpenFile(dst, os.O_CREATE|os.O_RDONLY, 0o644); err == nil {
			f.Close()
		}
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(m.Source, dst, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s on %s: %w", m.Source, m.Target, err)
	}
	if m.ReadOnly {
		if err := unix.Mount("", dst, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("read-only %s: %w", m.Target, err)
		}
	}
	return nil
}
