<?php
// Crashes in a C function below PHP frames of all kinds, and writes what debug_backtrace() says there to standard error, one frame a line.
namespace Web;

class Topic
{
    static function handle($id)
    {
        return (new self)->show($id);
    }

    function show($id)
    {
        return array_map(function ($topic) { return $this->render($topic); }, [$id]);
    }

    function render($topic)
    {
        $list = [3, 1, 2];
        usort($list,
            fn($a, $b) => fault($a));
    }
}

function fault($a)
{
    foreach (debug_backtrace() as $frame) {
        $name = ($frame['class'] ?? '') . ($frame['type'] ?? '') . $frame['function'];
        fprintf(STDERR, "%s\t%s\t%s\n", $name, $frame['file'] ?? '', $frame['line'] ?? '');
    }
    posix_kill(getmypid(), 11);
}

eval('Web\Topic::handle(7);');
