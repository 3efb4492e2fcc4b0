// Crashes of Go: methods, closures, goroutines, inlined functions.
package main

import "os"

type node struct {
	next  *node
	value int
}

type counter struct{ last *node }

func (c *counter) inlined() int { return c.last.value }

//go:noinline
func (c *counter) read() int { return c.inlined() + 1 }

//go:noinline
func apply(function func(int) int) int { return function(3) + 1 }

//go:noinline
func fail(n int) int {
	if n > 0 {
		panic("failed")
	}
	return n
}

func main() {
	out := 0
	switch os.Args[1] {
	case "1":
		out = (&counter{}).read()
	case "2":
		var at *node
		out = apply(func(n int) int { return at.value + n })
	case "3":
		out = fail(len(os.Args))
	case "4":
		done := make(chan int)
		go func() { done <- (&counter{}).read() }()
		out = <-done
	}
	os.Exit(out & 1)
}
