// Streams and events that run behind the caller's back, as on a GPU: with HEP_EMULATION_ASYNC=N in the environment
// every stream is a thread that does its work in order, each piece up to N microseconds late, at random. What a program
// forgot to wait for shows. Without it streams run what they are given at once.
#ifndef HEP_STREAM_WORKER_H
#define HEP_STREAM_WORKER_H

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace emulation
{

inline unsigned async_us()
{
    static const char *const value = getenv("HEP_EMULATION_ASYNC");
    static const unsigned us = value ? static_cast<unsigned>(atoi(value)) : 0;
    return us;
}

enum { STUCK_PIECES = 30 };

// With HEP_EMULATION_STUCK=N streams of this process take a second each for some pieces of work from the N-th on.
inline bool is_stuck()
{
    static const char *const value = getenv("HEP_EMULATION_STUCK");
    static const long which = value ? atol(value) : 0;
    static std::atomic<long> begun{0};
    return which > 0 && ++begun >= which && begun < which + STUCK_PIECES;
}

class StreamWorker
{
  public:
    StreamWorker() : thread([this] { run(); })
    {
    }

    ~StreamWorker()
    {
        {
            std::lock_guard<std::mutex> hold(mutex);
            quit = true;
        }
        changed.notify_all();
        thread.join();
    }

    void push(std::function<void()> work)
    {
        {
            std::lock_guard<std::mutex> hold(mutex);
            pending.push_back(std::move(work));
        }
        changed.notify_all();
    }

    bool is_idle()
    {
        std::lock_guard<std::mutex> hold(mutex);
        return pending.empty();
    }

    void drain()
    {
        std::unique_lock<std::mutex> hold(mutex);
        changed.wait(hold, [this] { return pending.empty(); });
    }

  private:
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<std::function<void()>> pending; // the first is under way
    bool quit = false;
    std::thread thread; // last: it begins when the others are there

    void run()
    {
        unsigned seed = static_cast<unsigned>(reinterpret_cast<uintptr_t>(this) >> 6);
        std::unique_lock<std::mutex> hold(mutex);
        for (;;) {
            changed.wait(hold, [this] { return quit || !pending.empty(); });
            if (pending.empty())
                return;
            std::function<void()> work = pending.front();
            hold.unlock();
            usleep(static_cast<unsigned>(rand_r(&seed)) % (async_us() + 1));
            if (is_stuck())
                sleep(1);
            work();
            hold.lock();
            pending.pop_front();
            changed.notify_all();
        }
    }
};

// How often an event was recorded, and how many of those records have been reached.
class EventState
{
  public:
    uint64_t issue()
    {
        std::lock_guard<std::mutex> hold(mutex);
        return ++issued;
    }

    void reach(uint64_t record, double now_ms)
    {
        {
            std::lock_guard<std::mutex> hold(mutex);
            done = record > done ? record : done;
            time_ms = now_ms;
        }
        changed.notify_all();
    }

    uint64_t last()
    {
        std::lock_guard<std::mutex> hold(mutex);
        return issued;
    }

    bool is_reached()
    {
        std::lock_guard<std::mutex> hold(mutex);
        return done >= issued;
    }

    void await(uint64_t record)
    {
        std::unique_lock<std::mutex> hold(mutex);
        changed.wait(hold, [&] { return done >= record; });
    }

    double reached_ms()
    {
        std::lock_guard<std::mutex> hold(mutex);
        return time_ms;
    }

  private:
    std::mutex mutex;
    std::condition_variable changed;
    uint64_t issued = 0, done = 0;
    double time_ms = 0;
};

} // namespace emulation

#endif
