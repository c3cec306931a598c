;; Shows its configuration in the response header x-greeting.
(module
  (import "env" "proxy_get_buffer_bytes" (func $get_buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_replace_header_map_value" (func $replace_header (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 16) "x-greeting")
  (global $config (mut i32) (i32.const 0))
  (global $config_size (mut i32) (i32.const 0))

  ;; The host writes what it hands over into memory that the plugin gives it: here, one place from the second page on.
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32) (i32.const 65536))

  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))

  ;; Buffer 7 is the plugin's configuration, as JSON. Where it lies and how long it is come back at 0 and 4.
  (func (export "proxy_on_configure") (param $context i32) (param $size i32) (result i32)
    (drop (call $get_buffer (i32.const 7) (i32.const 0) (local.get $size) (i32.const 0) (i32.const 4)))
    (global.set $config (i32.load (i32.const 0)))
    (global.set $config_size (i32.load (i32.const 4)))
    (i32.const 1))

  ;; Map 2 holds the response's headers. 0 is "continue".
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
    (drop (call $replace_header (i32.const 2) (i32.const 16) (i32.const 10) (global.get $config) (global.get $config_size)))
    (i32.const 0)))
