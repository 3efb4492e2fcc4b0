// Writes to an address that is not mapped, in a method that HotSpot has compiled: java Crash.java

import java.lang.reflect.Field;
import sun.misc.Unsafe;

public class Crash {
    static void store(Unsafe unsafe, long address, int value) {
        unsafe.putInt(address, value);
    }

    static void storeMany(Unsafe unsafe, long address, int count) {
        for (int i = 0; i < count; i++) {
            store(unsafe, address, i);
        }
    }

    public static void main(String[] arguments) throws Exception {
        Field field = Unsafe.class.getDeclaredField("theUnsafe");
        field.setAccessible(true);
        Unsafe unsafe = (Unsafe) field.get(null);
        long there = unsafe.allocateMemory(8);
        for (int i = 0; i < 2000; i++) {
            storeMany(unsafe, there, 100);
        }
        storeMany(unsafe, 8, 1);
    }
}
