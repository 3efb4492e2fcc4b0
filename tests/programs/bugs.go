// Crashes of Go, which dumps core only with GOTRACEBACK=crash.
package main

import "os"

type node struct{ next *node; value int }

//go:noinline
func readHere(at *node) int { return at.next.value + 1 }

//go:noinline
func readThere(at *node) int { return at.next.value + 2 }

//go:noinline
func panicHere(n int) int {
	if n > 0 {
		panic("here")
	}
	return n
}

//go:noinline
func panicThere(n int) int {
	if n > 0 {
		panic("there")
	}
	return n
}

func main() {
	out := 0
	switch os.Args[1] {
	case "1":
		out = readHere(&node{})
	case "2":
		out = readThere(&node{})
	case "3":
		out = panicHere(len(os.Args))
	case "4":
		out = panicThere(len(os.Args))
	case "5":
		done := make(chan int)
		go func() { done <- readHere(&node{}) }()
		out = <-done
	}
	os.Exit(out & 1)
}
