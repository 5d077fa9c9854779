// SPDX-License-Identifier: Apache-2.0
#include "launch/machine/signals.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>

namespace polymoe {
namespace {

using namespace std::chrono_literals;

// Each body runs in a process of its own, since signals and what became of them are the process's.
class SignalsTest : public ::testing::Test {
 protected:
  SignalsTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }

  static void send(int signal) { kill(getpid(), signal); }
  static bool comes(StopRequest request) {
    for (int i = 0; i < 6000 && stop_request() != request; ++i) std::this_thread::sleep_for(10ms);
    return stop_request() == request;
  }
  /// Exits with 0 where the body returns true, else with 1; with 3 after two minutes.
  [[noreturn]] static void run(const std::function<bool()>& body) {
    block_signals();
    start_signal_thread();
    std::thread([] {
      std::this_thread::sleep_for(120s);
      _exit(3);
    }).detach();
    _exit(body() ? 0 : 1);
  }
};

const ::testing::ExitedWithCode done(0);

TEST_F(SignalsTest, ARequestIsRememberedFromTheStart) {
  EXPECT_EXIT(run([] {
                if (stop_request() != StopRequest::none) return false;
                send(SIGUSR1);
                if (!comes(StopRequest::preempt)) return false;
                let_signals_stop_the_work(true, true);
                return stop_request() == StopRequest::preempt;
              }),
              done, "polymoe: SIGUSR1: .*checkpoint");
}

TEST_F(SignalsTest, APreemptionIsHeardOnceAndNeverEndsTheProcess) {
  EXPECT_EXIT(run([] {
                let_signals_stop_the_work(false, false);
                for (int i = 0; i < 200; ++i) {
                  send(SIGUSR1);
                  send(SIGXCPU);
                  std::this_thread::sleep_for(5ms);
                }
                return comes(StopRequest::preempt);
              }),
              done, "^$");
}

TEST_F(SignalsTest, ASecondSignalEndsAtOnceButNoDuplicate) {
  EXPECT_EXIT(run([] {
                let_signals_stop_the_work(true, true);
                send(SIGUSR1);
                if (!comes(StopRequest::preempt)) return false;
                send(SIGTERM);
                if (!comes(StopRequest::terminate)) return false;
                send(SIGTERM);  // as `timeout` does
                send(SIGHUP);
                std::this_thread::sleep_for(700ms);
                send(SIGINT);
                std::this_thread::sleep_for(60s);
                return true;
              }),
              ::testing::KilledBySignal(SIGINT), "SIGUSR1");
}

TEST_F(SignalsTest, OtherWorkEndsByTheSignal) {
  EXPECT_EXIT(run([] {
                send(SIGTERM);
                if (!comes(StopRequest::terminate)) return false;
                let_signals_end_the_process(true);
                return true;
              }),
              ::testing::KilledBySignal(SIGTERM), "^$");
  const auto end_by = [](int signal, bool speaks) {
    run([&] {
      let_signals_end_the_process(speaks);
      send(signal);
      std::this_thread::sleep_for(60s);
      return true;
    });
  };
  EXPECT_EXIT(end_by(SIGUSR2, true), ::testing::KilledBySignal(SIGUSR2), "^$");
  // But those by which schedulers preempt: their answer is the same code from any command.
  const ::testing::ExitedWithCode preempted(85);
  EXPECT_EXIT(end_by(SIGUSR1, true), preempted, "^polymoe: SIGUSR1: ended at once");
  EXPECT_EXIT(end_by(SIGXCPU, true), preempted, "^polymoe: SIGXCPU: ended at once");
  EXPECT_EXIT(end_by(SIGUSR1, false), preempted, "^$");
}

TEST_F(SignalsTest, NohupIsKept) {
  EXPECT_EXIT(
      {
        signal(SIGHUP, SIG_IGN);
        signal(SIGINT, SIG_IGN);
        run([] {
          let_signals_stop_the_work(false, false);
          send(SIGHUP);
          std::this_thread::sleep_for(200ms);
          if (stop_request() != StopRequest::none) return false;
          send(SIGINT);  // sent, not typed
          return comes(StopRequest::interrupt);
        });
      },
      done, "");
}

TEST_F(SignalsTest, ChildrenStartWithTheMaskOfBefore) {
  EXPECT_EXIT(
      run([] {
        let_signals_stop_the_work(false, false);
        const pid_t child = fork();
        if (child == 0) {
          sigset_t mask;
          pthread_sigmask(SIG_SETMASK, nullptr, &mask);
          _exit(sigismember(&mask, SIGTERM) == 0 && sigismember(&mask, SIGCHLD) == 0 ? 0 : 1);
        }
        int status = -1;
        return waitpid(child, &status, 0) == child && status == 0;
      }),
      done, "");
}

}  // namespace
}  // namespace polymoe
