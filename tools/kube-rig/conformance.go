package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	confv1 "sigs.k8s.io/gateway-api/conformance/apis/v1"
	"sigs.k8s.io/yaml"
)

// cmdSelftest replaces this process by the test binary of the rig itself.
func cmdSelftest(args []string) error {
	var r rig
	fs := flag.NewFlagSet("selftest", flag.ExitOnError)
	r.flags(fs)
	if err := r.parse(fs, args); err != nil {
		return err
	}
	argv, err := r.inside(append([]string{"conformance.test", "-test.run=^TestRig$", "-test.v"}, fs.Args()...)...)
	if err != nil {
		return err
	}
	return become(argv, r.env())
}

// cmdConformance runs the suite in the network namespace of the rig. Flags
// after "--" go to the suite unchanged (-run-test, -skip-tests,
// -exempt-features, -timeout-config-overrides, -organization ...).
func cmdConformance(args []string) error {
	var r rig
	fs := flag.NewFlagSet("conformance", flag.ExitOnError)
	r.flags(fs)
	class := fs.String("gateway-class", "gateway-conformance", "GatewayClass to test")
	features := fs.String("supported-features", "", "comma-separated features (default: those in the status of the GatewayClass)")
	profiles := fs.String("conformance-profiles", "", "comma-separated profiles, such as GATEWAY-HTTP,GATEWAY-GRPC,GATEWAY-TLS")
	report := fs.String("report", "", "file for the report (YAML)")
	logName := fs.String("log", "conformance.log", "file for the complete output")
	usable := fs.String("usable-address", "10.245.0.100", "address for GatewayStaticAddresses that works")
	unusable := fs.String("unusable-address", "192.0.2.1", "address for GatewayStaticAddresses that cannot work")
	limit := fs.Duration("timeout", 2*time.Hour, "limit for the whole run")
	if err := r.parse(fs, args); err != nil {
		return err
	}
	argv := []string{
		"conformance.test", "-test.run=^TestConformance$", "-test.v", "-test.timeout=" + limit.String(),
		"-gateway-class=" + *class, "-usable-address=" + *usable, "-unusable-address=" + *unusable,
	}
	if *features != "" {
		argv = append(argv, "-supported-features="+*features)
	}
	if *profiles != "" {
		argv = append(argv, "-conformance-profiles="+*profiles)
	}
	if *report != "" {
		abs, err := filepath.Abs(*report)
		if err != nil {
			return err
		}
		argv = append(argv, "-report-output="+abs)
	}
	argv, err := r.inside(append(argv, fs.Args()...)...)
	if err != nil {
		return err
	}
	out, err := os.Create(*logName)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = r.env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return err
	}
	summarize(io.TeeReader(pipe, out))
	err = cmd.Wait()
	if *report != "" {
		printReport(*report)
	}
	fmt.Printf("%s, complete output in %s\n", time.Since(begin).Round(time.Second), *logName)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("the suite failed (exit code %d)", exit.ExitCode())
	}
	return err
}

var (
	started = regexp.MustCompile(`^=== RUN   TestConformance/([^/]+)$`)
	result  = regexp.MustCompile(`^(    )?--- (PASS|FAIL|SKIP): (\S+) \(`)
)

// summarize prints each set-up step and each test that took time as they go by,
// then one line for each test and the totals: the testing package reports the
// results of subtests only when all are done.
func summarize(in io.Reader) {
	count := map[string]int{}
	last, since := "", time.Now()
	sc := bufio.NewScanner(in)
	sc.Buffer(nil, 16<<20)
	for sc.Scan() {
		line := sc.Text()
		if m := started.FindStringSubmatch(line); m != nil {
			if took := time.Since(since); last != "" && took > 20*time.Millisecond {
				fmt.Printf("%7.1fs  %s\n", took.Seconds(), last)
			}
			last, since = m[1], time.Now()
		}
		if strings.Contains(line, "Test Setup:") || strings.Contains(line, "Error:") {
			fmt.Println(strings.TrimSpace(line))
		}
		m := result.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if m[1] == "" {
			fmt.Println(line)
			continue
		}
		count[m[2]]++
		if m[2] != "SKIP" {
			fmt.Println(strings.TrimSpace(line))
		}
	}
	fmt.Printf("conformance tests: %d passed, %d failed, %d skipped\n", count["PASS"], count["FAIL"], count["SKIP"])
}

// printReport prints a table of the profiles in a report. A run that broke off
// leaves no report.
func printReport(file string) {
	b, err := os.ReadFile(file)
	if err != nil {
		return
	}
	var report confv1.ConformanceReport
	if err := yaml.Unmarshal(b, &report); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", file, err)
		return
	}
	fmt.Printf("\n%-14s %-36s %-36s %s\n", "profile", "core", "extended", "features")
	shown := func(s confv1.Status) string {
		return fmt.Sprintf("%-8s %3d passed %2d failed %2d skip", s.Result, s.Statistics.Passed, s.Statistics.Failed, s.Statistics.Skipped)
	}
	for _, p := range report.ProfileReports {
		extended, features := "", ""
		if e := p.Extended; e != nil {
			extended = shown(e.Status)
			features = fmt.Sprintf("%d of %d", len(e.SupportedFeatures), len(e.SupportedFeatures)+len(e.UnsupportedFeatures))
		}
		fmt.Printf("%-14s %-36s %-36s %s\n", p.Name, shown(p.Core), extended, features)
	}
	fmt.Println()
}
