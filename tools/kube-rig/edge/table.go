package main

import (
	"fmt"
	"strings"
)

// row is a line of a table: a label, how to show a figure, and the figures.
type row struct {
	label   string
	format  string
	goal    string
	figures []string
}

func (o options) rows() []row {
	objects := fmt.Sprintf("%d pods and %d Services", o.pods, o.services)
	return []row{
		{"resident memory, idle (of it not mapped from files)", "%.1f (%.1f) MB", "≤ 10 MB", []string{"idle_mb", "idle_private_mb"}},
		{"… " + objects + " listed and watched (protobuf / JSON)", "%.0f / %.0f MB", "≤ 30 MB", []string{"held_protobuf_mb", "held_json_mb"}},
		{"… of it not mapped from files", "%.0f / %.0f MB", "", []string{"held_protobuf_private_mb", "held_json_private_mb"}},
		{"… at most until then", "%.0f / %.0f MB", "", []string{"held_protobuf_peak_mb", "held_json_peak_mb"}},
		{"CPU per GET, from the API server and kept", "%.2f ms", "≤ 0.15 ms", []string{"get_json_cpu_ms"}},
		{"CPU per GET from the cache, without the API server", "%.2f ms", "≤ 0.15 ms", []string{"get_cached_cpu_ms"}},
		{"CPU per watch event of a pod", "%.2f ms", "≤ 0.15 ms", []string{"event_cpu_ms"}},
		{fmt.Sprintf("CPU per LIST of %d pods (protobuf / JSON)", o.pods), "%.0f / %.0f ms", "≤ 60 ms", []string{"list_protobuf_cpu_ms", "list_json_cpu_ms"}},
		{"GET, p50: direct → through the hub", "%.2f → %.2f ms", "", []string{"get_json_direct_p50_ms", "get_json_p50_ms"}},
		{"LIST of the pods in JSON, p50: direct → through the hub", "%.0f → %.0f ms", "", []string{"list_json_direct_p50_ms", "list_json_p50_ms"}},
		{fmt.Sprintf("GET of kubelet beside a pod that asks %d times per second, p50 / p99 (requests of the pod per second)", noisyPerSecond), "%.2f / %.2f ms (%.0f)", "p99 ≤ 20 ms", []string{"noisy_p50_ms", "noisy_p99_ms", "noisy_rate"}},
		{"added latency of a watch event, quiet disk, p50 / p99", "%.2f / %.2f ms", "p99 ≤ 0.5 ms", []string{"event_added_p50_ms", "event_added_p99_ms"}},
		{fmt.Sprintf("… fsync taking %d ms, p50 / p99 (calls of fsync)", o.syncDelay.Milliseconds()), "%.2f / %.2f ms (%.0f)", "p99 ≤ 1 ms", []string{"slow_event_added_p50_ms", "slow_event_added_p99_ms", "slow_event_syncs"}},
		{"half-open link: longest wait of a request without timeout", "%.1f s", "≤ 3 s", []string{"outage_longest_wait_s"}},
		{"… at once after", "%.1f s", "", []string{"outage_settled_s"}},
		{"… then, p50 / longest", "%.1f / %.1f ms", "≤ 50 ms", []string{"outage_then_p50_ms", "outage_then_max_ms"}},
		{"… requests that failed", "%.0f of %.0f", "", []string{"outage_failed", "outage_probes"}},
		{"fresh data after the link's return", "%.1f s", "≤ 2 s", []string{"return_s"}},
		{"offline restart to first answer, refused / black hole: " + objects, "%.2f / %.2f s", "≤ 0.3 / 0.3 s", []string{"restart_refused_s", "restart_black_hole_s"}},
		{fmt.Sprintf("… with %d objects more, listed in pages", o.objects), "%.2f / %.2f s", "≤ 0.3 / 0.3 s", []string{"many_refused_s", "many_black_hole_s"}},
		{"… resident memory then", "%.0f MB", "", []string{"many_mb"}},
		{"written per watch event of a pod: by the process, at the device", "%.1f, %.1f KB", "≤ 3 KB at the device", []string{"event_written_kb", "event_device_kb"}},
		{"lost, doubled or mixed objects after kill −9 while pods change (kills; lists not answered)", "%.0f (%.0f; %.0f)", "0", []string{"kills_wrong", "kills", "kills_unanswered"}},
	}
}

// fleetRows have what nodes with five agents each cost the API server.
func (o options) fleetRows() (rows []row) {
	for _, size := range o.fleets {
		of := func(names ...string) []string {
			for i, name := range names {
				names[i] = fmt.Sprintf("fleet_%d_%s", size, name)
			}
			return names
		}
		rows = append(rows,
			row{label: fmt.Sprintf("**%d nodes**: watches", size), format: "%.0f", figures: of("watches")},
			row{label: "start: CPU, bytes sent", format: "%.1f s, %.0f MB", figures: of("start_cpu_s", "start_sent_mb")},
			row{label: fmt.Sprintf("at rest for %.0f s: CPU, bytes sent", o.rest.Seconds()), format: "%.2f s, %.2f MB", figures: of("rest_cpu_s", "rest_sent_mb")},
			row{label: fmt.Sprintf("all links cut for %.0f s, then: CPU, bytes sent", o.fleetDown.Seconds()), format: "%.1f s, %.1f MB", figures: of("return_cpu_s", "return_sent_mb")},
			row{label: "… lists of agents", format: "%.0f", figures: of("return_lists")},
			row{label: "… until every agent has seen a change", format: "%.1f s", figures: of("return_s")},
			row{label: "memory of a hub", format: "%.0f MB", figures: of("mb")},
		)
	}
	return rows
}

// table has a row for each figure that was measured, and a column for each
// kind.
func table(rows []row, kinds []kind, results map[string]figures, goals bool) string {
	var names, cells []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	if goals {
		names = append(names, "goal")
	}
	var out strings.Builder
	for _, r := range rows {
		cells = nil
		measured := false
		for _, k := range kinds {
			cell, ok := r.cell(results[k.name])
			measured = measured || ok
			cells = append(cells, cell)
		}
		if goals {
			cells = append(cells, r.goal)
		}
		if measured {
			fmt.Fprintf(&out, "| %s | %s |\n", r.label, strings.Join(cells, " | "))
		}
	}
	if out.Len() == 0 {
		return ""
	}
	return "| | " + strings.Join(names, " | ") + " |\n| ---" + strings.Repeat(" | ---", len(names)) + " |\n" + out.String()
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
