package main

import (
	"fmt"
	"strings"
)

// row is a line of the table: a label, how to show a figure, and the figures.
type row struct {
	label   string
	format  string
	figures []string
}

var rows = []row{
	{"resident memory, idle (of it not mapped from files)", "%.1f (%.1f) MB", []string{"idle_mb", "idle_private_mb"}},
	{"… with a node's objects listed and watched (protobuf, JSON)", "%.0f / %.0f MB", []string{"held_protobuf_mb", "held_json_mb"}},
	{"… of it not mapped from files", "%.0f / %.0f MB", []string{"held_protobuf_private_mb", "held_json_private_mb"}},
	{"… at most until then (protobuf, JSON)", "%.0f / %.0f MB", []string{"held_protobuf_peak_mb", "held_json_peak_mb"}},
	{"CPU per GET that is passed on", "%.2f ms", []string{"get_json_cpu_ms"}},
	{"CPU per GET from the cache, without the API server", "%.2f ms", []string{"get_cached_cpu_ms"}},
	{"CPU per LIST of the pods (protobuf, JSON)", "%.0f / %.0f ms", []string{"list_protobuf_cpu_ms", "list_json_cpu_ms"}},
	{"GET, p50: direct, through the hub", "%.2f → %.2f ms", []string{"get_json_direct_p50_ms", "get_json_p50_ms"}},
	{"LIST of the pods in JSON, p50: direct, through the hub", "%.0f → %.0f ms", []string{"list_json_direct_p50_ms", "list_json_p50_ms"}},
	{"CPU per watch event of a pod", "%.2f ms", []string{"event_cpu_ms"}},
	{"latency that is added to an event, p50 / p99", "%.2f / %.2f ms", []string{"event_added_p50_ms", "event_added_p99_ms"}},
	{"written per event: by the process, at the device", "%.0f / %.0f bytes", []string{"event_written_bytes", "event_device_bytes"}},
	{"API server stands still: longest wait of a request", "%.1f s", []string{"outage_longest_wait_s"}},
	{"… at once after", "%.1f s", []string{"outage_settled_s"}},
	{"… and then, p50 / longest", "%.1f / %.1f ms", []string{"outage_then_p50_ms", "outage_then_max_ms"}},
	{"… requests that failed", "%.0f", []string{"outage_failed"}},
	{"fresh data after the return", "%.1f s", []string{"return_s"}},
	{"restart without the API server, to the first answer: refused / black hole", "%.2f / %.2f s", []string{"restart_refused_s", "restart_black_hole_s"}},
	{"the same with many objects", "%.2f / %.2f s", []string{"many_refused_s", "many_black_hole_s"}},
	{"resident memory then", "%.0f MB", []string{"many_mb"}},
}

func fleetRows(size int) []row {
	of := func(names ...string) []string {
		for i, name := range names {
			names[i] = fmt.Sprintf("fleet_%d_%s", size, name)
		}
		return names
	}
	return []row{
		{fmt.Sprintf("%d hubs: watches at the API server", size), "%.0f", of("watches")},
		{"… start: CPU of the API server, bytes from it", "%.0f ms, %.1f MB", of("start_cpu_ms", "start_sent_mb")},
		{"… at rest: CPU, bytes; in seconds", "%.0f ms, %.2f MB; %.0f s", of("rest_cpu_ms", "rest_sent_mb", "rest_seconds")},
		{"… after an outage of all: CPU, bytes; lists of clients", "%.0f ms, %.1f MB; %.0f", of("return_cpu_ms", "return_sent_mb", "return_lists")},
		{"… until every client has seen a change", "%.1f s", of("return_s")},
		{"… memory of one hub", "%.0f MB", of("mb")},
	}
}

// table has a row for each figure that was measured, and a column for each hub.
func (o options) table(kinds []kind, results map[string]figures) string {
	all := rows
	for _, size := range o.fleets {
		all = append(all, fleetRows(size)...)
	}
	var out strings.Builder
	out.WriteString("|")
	for _, k := range kinds {
		out.WriteString(" | " + k.name)
	}
	out.WriteString(" |\n| ---" + strings.Repeat(" | ---", len(kinds)) + " |\n")
	for _, r := range all {
		text := "| " + r.label
		measured := false
		for _, k := range kinds {
			cell, ok := r.cell(results[k.name])
			measured = measured || ok
			text += " | " + cell
		}
		if measured {
			out.WriteString(text + " |\n")
		}
	}
	return out.String()
}

func (r row) cell(f figures) (string, bool) {
	var values []any
	for _, name := range r.figures {
		value, ok := f[name]
		if !ok {
			return "–", false
		}
		values = append(values, value)
	}
	return fmt.Sprintf(r.format, values...), true
}
