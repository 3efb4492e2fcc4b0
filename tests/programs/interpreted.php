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
        file_put_contents('php://stderr', "$name\t" . ($frame['file'] ?? '') . "\t" . ($frame['line'] ?? '') . "\n");
    }
    if (\function_exists('crash_in_extension')) {
        \crash_in_extension();
    }
    posix_kill(getmypid(), 11);
}

eval('Web\Topic::handle(7);');
