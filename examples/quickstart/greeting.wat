;; Adds the response header x-greeting, with the text that its configuration gives: { greeting: TEXT }.
(module
  (import "env" "proxy_get_buffer_bytes" (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $replace_header (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "x-greeting")
  (global $text (mut i32) (i32.const 0))
  (global $text_size (mut i32) (i32.const 0))

  ;; The host writes what it hands over into memory that the plugin gives it: here, one place from the second page on.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) (i32.const 65536))

  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))

  ;; Buffer 7 is the plugin's configuration, as JSON: {"greeting":"hello"}. Its address and size come back at 0 and 4. The text
  ;; is between the third quote and the fourth. A configuration without it is refused: 0 is "no", 1 is "yes".
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    (local $at i32) (local $end i32) (local $quotes i32)
    (drop (call $get_buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 0) (i32.const 4)))
    (local.set $at (i32.load (i32.const 0)))
    (local.set $end (i32.add (local.get $at) (i32.load (i32.const 4))))
    (loop $next
      (if (i32.ge_u (local.get $at) (local.get $end)) (then (return (i32.const 0))))
      (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 0x22)) (then
        (local.set $quotes (i32.add (local.get $quotes) (i32.const 1)))
        (if (i32.eq (local.get $quotes) (i32.const 3)) (then
          (global.set $text (i32.add (local.get $at) (i32.const 1)))))
        (if (i32.eq (local.get $quotes) (i32.const 4)) (then
          (global.set $text_size (i32.sub (local.get $at) (global.get $text)))
          (return (i32.const 1))))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next))
    (unreachable))

  ;; Map 2 holds the response's headers. 0 is "continue".
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $replace_header (i32.const 2) (i32.const 16) (i32.const 10) (global.get $text) (global.get $text_size)))
    (i32.const 0)))
