// The few calls of SQLite that the store needs; every failure is an Error of one line that names the file.
#pragma once

#include <sqlite3.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace nibble::sqlite {

// `code` in words a person can act on.
[[noreturn]] inline void fail_with(const std::string& file, int code, const std::string& message,
                                   int system_error = 0) {
  switch (code & 0xff) {
    case SQLITE_IOERR:
      if (code == SQLITE_IOERR_WRITE && system_error != 0) {
        fail("{}: cannot write: {}", file, std::strerror(system_error));
      }
      fail("{}: {}", file, message);
    case SQLITE_FULL:
      fail("{}: the disk is full; free some space, then run the same command again", file);
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT:
      fail("{}: damaged, or no results database of nibble ({}); restore a copy or use another --out", file,
           message);
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      fail("{}: another program is writing to it ({}); wait until it is done", file, message);
    default:
      fail("{}: {}", file, message);
  }
}

class Database;

// A prepared statement. Parameters and columns count from 1 and 0, as in SQLite.
class Statement {
 public:
  Statement(Statement&& other) noexcept
      : file_(other.file_), handle_(std::exchange(other.handle_, nullptr)) {}
  Statement& operator=(Statement&&) = delete;
  ~Statement() { sqlite3_finalize(handle_); }

  // Binds values to ?1, ?2, …, ready for step(). A NaN is stored as NULL.
  template <typename... Values>
  Statement& bind(const Values&... values) {
    sqlite3_reset(handle_);
    int index = 0;
    (bind_one(++index, values), ...);
    return *this;
  }
  // True: a row is there to read.
  bool step() {
    const int code = sqlite3_step(handle_);
    if (code == SQLITE_ROW) return true;
    if (code == SQLITE_DONE) {
      sqlite3_reset(handle_);
      return false;
    }
    sqlite3* database = sqlite3_db_handle(handle_);
    const std::string message = sqlite3_errmsg(database);
    const int system_error = sqlite3_system_errno(database);
    sqlite3_reset(handle_);
    fail_with(*file_, code, message, system_error);
  }
  // For statements that return nothing.
  template <typename... Values>
  void run(const Values&... values) {
    bind(values...);
    while (step()) {
    }
  }

  bool is_null(int column) const { return sqlite3_column_type(handle_, column) == SQLITE_NULL; }
  int64_t integer(int column) const { return sqlite3_column_int64(handle_, column); }
  uint64_t unsigned_integer(int column) const { return static_cast<uint64_t>(integer(column)); }
  double real(int column) const {
    return is_null(column) ? std::numeric_limits<double>::quiet_NaN()
                           : sqlite3_column_double(handle_, column);
  }
  std::string text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(handle_, column));
    const auto size = static_cast<size_t>(sqlite3_column_bytes(handle_, column));
    return bytes ? std::string(bytes, size) : std::string{};
  }

 private:
  friend class Database;
  Statement(const std::string* file, sqlite3_stmt* handle) : file_(file), handle_(handle) {}

  void bind_one(int i, std::string_view text) {
    check(sqlite3_bind_text64(handle_, i, text.data() ? text.data() : "", text.size(), SQLITE_TRANSIENT,
                              SQLITE_UTF8));
  }
  void bind_one(int i, const std::string& text) { bind_one(i, std::string_view(text)); }
  void bind_one(int i, const char* text) { bind_one(i, std::string_view(text)); }
  void bind_one(int i, double value) { check(sqlite3_bind_double(handle_, i, value)); }
  void bind_one(int i, int64_t value) { check(sqlite3_bind_int64(handle_, i, value)); }
  void bind_one(int i, uint64_t value) { bind_one(i, static_cast<int64_t>(value)); }
  void bind_one(int i, int value) { bind_one(i, int64_t{value}); }
  void bind_one(int i, bool value) { bind_one(i, int64_t{value}); }
  template <typename T>
  void bind_one(int i, const std::optional<T>& value) {
    if (value) {
      bind_one(i, *value);
    } else {
      check(sqlite3_bind_null(handle_, i));
    }
  }
  void check(int code) const {
    if (code != SQLITE_OK) fail_with(*file_, code, sqlite3_errmsg(sqlite3_db_handle(handle_)));
  }

  const std::string* file_;  // the Database's
  sqlite3_stmt* handle_;
};

class Database {
 public:
  Database(std::string file, int flags) : file_(std::move(file)) {
    const int code = sqlite3_open_v2(file_.c_str(), &handle_, flags | SQLITE_OPEN_EXRESCODE, nullptr);
    if (code != SQLITE_OK) {
      const std::string message = handle_ ? sqlite3_errmsg(handle_) : sqlite3_errstr(code);
      sqlite3_close(handle_);
      fail_with(file_, code, message);
    }
  }
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;
  ~Database() { sqlite3_close(handle_); }

  const std::string& file() const { return file_; }
  void execute(const char* sql) {
    const int code = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) fail_with(file_, code, sqlite3_errmsg(handle_), sqlite3_system_errno(handle_));
  }
  Statement prepare(const char* sql) const {
    sqlite3_stmt* statement = nullptr;
    const int code = sqlite3_prepare_v2(handle_, sql, -1, &statement, nullptr);
    if (code != SQLITE_OK) fail_with(file_, code, sqlite3_errmsg(handle_));
    return Statement(&file_, statement);
  }
  int64_t integer(const char* sql) const {
    Statement statement = prepare(sql);
    return statement.bind().step() ? statement.integer(0) : 0;
  }
  // From here on a copy of the database in memory is used; the file is left alone.
  void continue_in_memory() {
    sqlite3* copy = nullptr;
    const int opened = sqlite3_open_v2(":memory:", &copy, SQLITE_OPEN_READWRITE, nullptr);
    sqlite3_backup* backup =
        opened == SQLITE_OK ? sqlite3_backup_init(copy, "main", handle_, "main") : nullptr;
    if (backup) sqlite3_backup_step(backup, -1);
    const int code = backup ? sqlite3_backup_finish(backup) : sqlite3_errcode(copy);
    if (code != SQLITE_OK) {
      const std::string message = sqlite3_errstr(code);
      sqlite3_close(copy);
      fail_with(file_, code, message);
    }
    sqlite3_close(std::exchange(handle_, copy));
  }
  bool in_transaction() const { return sqlite3_get_autocommit(handle_) == 0; }

 private:
  std::string file_;
  sqlite3* handle_ = nullptr;
};

// All that happens until commit() happens together, or not at all.
class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database) { database_.execute("BEGIN IMMEDIATE"); }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction() {
    if (!database_.in_transaction()) return;  // committed, or rolled back by SQLite itself
    try {
      database_.execute("ROLLBACK");
    } catch (const Error&) {
      // The journal undoes the rest when the file is opened next.
    }
  }
  void commit() { database_.execute("COMMIT"); }

 private:
  Database& database_;
};

}  // namespace nibble::sqlite
