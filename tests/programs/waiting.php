<?php
// Waits in a C function, below PHP frames that have nothing to do with the crash in another thread.
namespace Idle;

class Queue
{
    function next()
    {
        \wait_for_ever();
    }
}

(new Queue)->next();
