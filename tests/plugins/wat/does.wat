  ;; Does what the first letter of `x-do` says.
  (data (i32.const 1024) "x-do")
  (data (i32.const 1040) "x-one")
  (data (i32.const 1056) "x-two")
  (data (i32.const 1072) "a reason of its own")
  (data (i32.const 1104) "no")
  (data (i32.const 1120) "a\0d\0a: b")
  (data (i32.const 1136) ":scheme")
  (data (i32.const 1152) "transfer-encoding")
  (data (i32.const 1184) "the request goes wrong")
  (data (i32.const 1216) ":path")
  (data (i32.const 1232) "/a/../b?c")
  (data (i32.const 1248) "/%zz/../../b")
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param $is_last i32) (result i32)
    (local $do i32)
    (if (i32.ne (call $get (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 16) (i32.const 20)) (i32.const 0))
      (then (return (i32.const 0))))
    (local.set $do (i32.load8_u (call $pointer)))
    (if (i32.eq (local.get $do) (i32.const 116)) ;; trap
      (then (drop (call $log (i32.const 3) (i32.const 1184) (i32.const 22))) (unreachable)))
    (if (i32.eq (local.get $do) (i32.const 108)) ;; loop
      (then (loop $for_ever (br $for_ever))))
    (if (i32.eq (local.get $do) (i32.const 109)) ;; memory
      (then (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)))
    (if (i32.eq (local.get $do) (i32.const 101)) ;; exit
      (then (call $exit (i32.const 3))))
    (if (i32.eq (local.get $do) (i32.const 97)) ;; answer, twice: the first counts
      (then
        (drop (call $answer (i32.const 403) (i32.const 1072) (i32.const 19) (i32.const 1104) (i32.const 2)
          (i32.const 0) (i32.const 0) (i32.const -1)))
        (drop (call $answer (i32.const 500) (i32.const 1072) (i32.const 19) (i32.const 1104) (i32.const 2)
          (i32.const 0) (i32.const 0) (i32.const -1)))))
    (if (i32.eq (local.get $do) (i32.const 112)) ;; pause
      (then (return (i32.const 1))))
    (if (i32.eq (local.get $do) (i32.const 113)) ;; pause and go on at once
      (then (drop (call $continue (i32.const 0))) (return (i32.const 1))))
    (if (i32.eq (local.get $do) (i32.const 99)) ;; close
      (then (drop (call $close (i32.const 0)))))
    (if (i32.eq (local.get $do) (i32.const 119)) ;; wrong pointers and lengths: what the hostcalls say goes to the upstream
      (then
        (call $tell (i32.const 0) (i32.const 1040)
          (call $get (i32.const 0) (i32.const -8) (i32.const 100) (i32.const 16) (i32.const 20)))
        (call $tell (i32.const 0) (i32.const 1056)
          (call $get (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 131070) (i32.const -1)))))
    (if (i32.eq (local.get $do) (i32.const 102)) ;; fields that are none
      (then
        (call $tell (i32.const 0) (i32.const 1040)
          (call $add (i32.const 0) (i32.const 1120) (i32.const 6) (i32.const 1104) (i32.const 2)))
        (call $tell (i32.const 0) (i32.const 1056)
          (call $add (i32.const 0) (i32.const 1104) (i32.const 2) (i32.const 1120) (i32.const 6)))))
    (if (i32.eq (local.get $do) (i32.const 115)) ;; the scheme, and framing
      (then
        (call $tell (i32.const 0) (i32.const 1040)
          (call $replace (i32.const 0) (i32.const 1136) (i32.const 7) (i32.const 1104) (i32.const 2)))
        (call $tell (i32.const 0) (i32.const 1056)
          (call $replace (i32.const 0) (i32.const 1152) (i32.const 17) (i32.const 1104) (i32.const 2)))))
    (if (i32.eq (local.get $do) (i32.const 117)) ;; maps and buffers that are not there
      (then
        (call $tell (i32.const 0) (i32.const 1040)
          (call $add (i32.const 2) (i32.const 1104) (i32.const 2) (i32.const 1104) (i32.const 2)))
        (call $tell (i32.const 0) (i32.const 1056)
          (call $get_buffer (i32.const 2) (i32.const 0) (i32.const 9) (i32.const 16) (i32.const 20)))))
    (if (i32.eq (local.get $do) (i32.const 110)) ;; a path in normal form
      (then
        (call $tell (i32.const 0) (i32.const 1040)
          (call $replace (i32.const 0) (i32.const 1216) (i32.const 5) (i32.const 1232) (i32.const 9)))
        (call $tell (i32.const 0) (i32.const 1056)
          (call $replace (i32.const 0) (i32.const 1216) (i32.const 5) (i32.const 1248) (i32.const 12)))))
    (i32.const 0))
  (func (export "proxy_on_response_headers") (param $context i32) (param $count i32) (param $is_last i32) (result i32)
    (local $do i32)
    (if (i32.ne (call $get (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 16) (i32.const 20)) (i32.const 0))
      (then (return (i32.const 0))))
    (local.set $do (i32.load8_u (call $pointer)))
    (if (i32.eq (local.get $do) (i32.const 84)) ;; Trap
      (then (unreachable)))
    (if (i32.eq (local.get $do) (i32.const 65)) ;; Answer in the place of the upstream
      (then
        (drop (call $answer (i32.const 418) (i32.const 1072) (i32.const 19) (i32.const 1104) (i32.const 2)
          (i32.const 0) (i32.const 0) (i32.const -1)))))
    (if (i32.eq (local.get $do) (i32.const 76)) ;; Late: the request cannot be changed any more
      (then
        (call $tell (i32.const 2) (i32.const 1040)
          (call $add (i32.const 0) (i32.const 1104) (i32.const 2) (i32.const 1104) (i32.const 2)))))
    (i32.const 0))
